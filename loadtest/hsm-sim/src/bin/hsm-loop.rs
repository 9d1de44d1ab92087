//! What a PKCS#11 module can do at most: N sessions, one thread each, AES-GCM encrypt, decrypt and
//! compare in a loop, with raw calls. The yardstick for programs that put something around these
//! calls.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::ptr;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use cryptoki_sys::*;
use hsm_sim::call;
use hsm_sim::mechanism::{aes_gcm, gcm_parameters};
use hsm_sim::raw_calls::{attribute, initialize, log_in, open, slot_of};
use hsm_sim::real::Functions;

/// Encrypts, decrypts and compares 32 bytes with AES-GCM in a loop and prints operations per second
/// as JSON. One operation is C_EncryptInit, C_Encrypt, C_DecryptInit and C_Decrypt, and 1/256 of a
/// C_GenerateRandom where the caller makes the IVs.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The PKCS#11 module
    #[arg(long)]
    module: PathBuf,
    /// Label of the token
    #[arg(long)]
    token: String,
    /// User PIN; without it nobody logs in
    #[arg(long, env = "HSM_LOOP_PIN", hide_env_values = true)]
    pin: Option<String>,
    /// Label of an AES key; without it each session makes a session key
    #[arg(long)]
    key: Option<String>,
    /// Sessions, each on its own thread
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    sessions: u16,
    /// How long, seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Who makes the IV
    #[arg(long, value_enum, default_value_t = Iv::Caller)]
    iv: Iv,
    /// Library parameters for NSS: configdir='…' …
    #[arg(long)]
    library_parameters: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Iv {
    /// The caller, as in the standard
    Caller,
    /// The HSM, in place of the caller's zeros
    Fill,
    /// The HSM, 16 bytes after the tag
    Append,
}

impl fmt::Display for Iv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Iv::Caller => "caller",
            Iv::Fill => "fill",
            Iv::Append => "append",
        })
    }
}

const DATA_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const IV_BYTES: usize = 12;
const IVS_A_CALL: usize = 256;
/// After the end, for what is still running.
const END_WAIT_MAX: Duration = Duration::from_secs(10);

/// What one session did.
#[derive(Default)]
struct SessionResult {
    operation_us: Vec<u32>,
    error: Option<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(all_well) if all_well => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hsm-loop: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool, String> {
    let functions = initialize(&options.module, options.library_parameters.as_deref())?;
    let slot = slot_of(functions, &options.token)?;
    let sessions =
        (0..options.sessions).map(|_| open(functions, slot)).collect::<Result<Vec<_>, _>>()?;
    if let Some(pin) = &options.pin {
        log_in(functions, sessions[0], pin)?;
    }
    let keys = sessions
        .iter()
        .map(|session| key_for(functions, *session, options.key.as_deref()))
        .collect::<Result<Vec<_>, _>>()?;

    let start = Instant::now();
    let end = start + Duration::from_secs(options.seconds);
    let (done, results) = channel();
    for (session, key) in sessions.into_iter().zip(keys) {
        let (done, iv) = (done.clone(), options.iv);
        std::thread::spawn(move || work(functions, session, key, iv, end, &done));
    }
    drop(done);

    let mut operation_us = Vec::new();
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    let mut reported = 0;
    loop {
        match results.recv_timeout((end + END_WAIT_MAX).saturating_duration_since(Instant::now())) {
            Ok(result) => {
                reported += 1;
                operation_us.extend(result.operation_us);
                if let Some(error) = result.error {
                    *errors.entry(error).or_insert(0) += 1;
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                *errors.entry("hung".to_owned()).or_insert(0) +=
                    u64::from(options.sessions) - reported;
                break;
            }
        }
    }
    report(options, start.elapsed(), operation_us, &errors);
    for (error, sessions) in &errors {
        eprintln!("hsm-loop: {sessions} of {} sessions ended early: {error}", options.sessions);
    }
    if !errors.contains_key("hung") {
        call!(functions, C_Finalize, ptr::null_mut())?;
    }
    Ok(errors.is_empty())
}

#[allow(clippy::print_stdout)]
fn report(
    options: &Options,
    elapsed: Duration,
    mut operation_us: Vec<u32>,
    errors: &BTreeMap<String, u64>,
) {
    operation_us.sort_unstable();
    let percentile = |percent: usize| {
        operation_us
            .get((operation_us.len() * percent / 100).min(operation_us.len().saturating_sub(1)))
    };
    let report = serde_json::json!({
        "sessions": options.sessions,
        "seconds": rounded(elapsed.as_secs_f64()),
        "operations": operation_us.len(),
        "operations_per_second": rounded(operation_us.len() as f64 / elapsed.as_secs_f64()),
        "p50_us": percentile(50),
        "p99_us": percentile(99),
        "max_us": operation_us.last(),
        "sessions_ended_by_error": errors,
    });
    println!("{report}");
}

/// To a tenth: no measurement here is better.
fn rounded(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}

fn key_for(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    label: Option<&str>,
) -> Result<CK_OBJECT_HANDLE, String> {
    let (mut class, mut kind, mut length, mut yes) =
        (CKO_SECRET_KEY, CKK_AES, 32 as CK_ULONG, CK_TRUE);
    let mut key = 0;
    let Some(label) = label else {
        let mut mechanism = CK_MECHANISM {
            mechanism: CKM_AES_KEY_GEN,
            pParameter: ptr::null_mut(),
            ulParameterLen: 0,
        };
        let mut yes_too = CK_TRUE;
        let mut template = [
            attribute(CKA_VALUE_LEN, &mut length),
            attribute(CKA_ENCRYPT, &mut yes),
            attribute(CKA_DECRYPT, &mut yes_too),
        ];
        call!(
            functions,
            C_GenerateKey,
            session,
            &mut mechanism,
            template.as_mut_ptr(),
            template.len() as CK_ULONG,
            &mut key
        )?;
        return Ok(key);
    };
    let mut label = label.as_bytes().to_vec();
    let mut template = [
        attribute(CKA_CLASS, &mut class),
        attribute(CKA_KEY_TYPE, &mut kind),
        attribute(CKA_LABEL, label.as_mut_slice()),
    ];
    let mut found = 0;
    call!(
        functions,
        C_FindObjectsInit,
        session,
        template.as_mut_ptr(),
        template.len() as CK_ULONG
    )?;
    call!(functions, C_FindObjects, session, &mut key, 1, &mut found)?;
    call!(functions, C_FindObjectsFinal, session)?;
    if found == 0 { Err("no AES key with that label".to_owned()) } else { Ok(key) }
}

fn work(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    iv: Iv,
    end: Instant,
    done: &Sender<SessionResult>,
) {
    let mut result = SessionResult::default();
    let mut ivs = vec![0; IV_BYTES * IVS_A_CALL];
    let mut operations = 0;
    while Instant::now() < end {
        let start = Instant::now();
        if let Err(error) = operation(functions, session, key, iv, &mut ivs, operations) {
            result.error = Some(error);
            break;
        }
        operations += 1;
        result.operation_us.push(start.elapsed().as_micros().try_into().unwrap_or(u32::MAX));
    }
    // When nobody listens any more, this session was counted as hung.
    let _ = done.send(result);
}

/// One encryption, decrypted and compared.
fn operation(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    mode: Iv,
    ivs: &mut [u8],
    number: usize,
) -> Result<(), String> {
    let place = number % IVS_A_CALL;
    if mode == Iv::Caller && place == 0 {
        call!(functions, C_GenerateRandom, session, ivs.as_mut_ptr(), ivs.len() as CK_ULONG)?;
    }
    let mut iv = match mode {
        Iv::Caller => ivs[place * IV_BYTES..][..IV_BYTES].to_vec(),
        Iv::Fill => vec![0; IV_BYTES],
        Iv::Append => Vec::new(),
    };
    let aad = b"project=nile,department=marketing";
    let mut data = [0x5Au8; DATA_BYTES];
    let mut out = [0u8; DATA_BYTES + TAG_BYTES + 16];
    let mut out_len = out.len() as CK_ULONG;

    let mut parameters = gcm_parameters(&mut iv, aad, TAG_BYTES);
    let mut mechanism = aes_gcm(&mut parameters);
    call!(functions, C_EncryptInit, session, &mut mechanism, key)?;
    call!(
        functions,
        C_Encrypt,
        session,
        data.as_mut_ptr(),
        DATA_BYTES as CK_ULONG,
        out.as_mut_ptr(),
        &mut out_len
    )?;
    let (encrypted, appended) = out.split_at_mut(DATA_BYTES + TAG_BYTES);
    if mode == Iv::Append {
        iv = appended.to_vec();
    }
    // A module that leaves the caller's zeros alone encrypts everything under one IV, and would
    // pass for the yardstick of one that makes them.
    if iv.iter().all(|byte| *byte == 0) {
        return Err(format!("--iv {mode}: the IV is all zeros after C_Encrypt"));
    }

    let mut parameters = gcm_parameters(&mut iv, aad, TAG_BYTES);
    let mut mechanism = aes_gcm(&mut parameters);
    let mut plain = [0u8; DATA_BYTES + TAG_BYTES];
    let mut plain_len = plain.len() as CK_ULONG;
    call!(functions, C_DecryptInit, session, &mut mechanism, key)?;
    let encrypted_len = encrypted.len() as CK_ULONG;
    call!(
        functions,
        C_Decrypt,
        session,
        encrypted.as_mut_ptr(),
        encrypted_len,
        plain.as_mut_ptr(),
        &mut plain_len
    )?;
    if plain.get(..plain_len as usize) == Some(&data[..]) {
        Ok(())
    } else {
        Err("the plaintext is another".to_owned())
    }
}
