//! Many keys on a token, for loads and listings that have to do with them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::ptr;

use clap::Parser;
use cryptoki_sys::*;
use hsm_sim::call;
use hsm_sim::raw_calls::{attribute, initialize, log_in, open, slot_of};
use hsm_sim::real::Functions;

/// Makes private AES-256 keys on a token, labelled PREFIX-1, PREFIX-2 and so on.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The PKCS#11 module
    #[arg(long)]
    module: PathBuf,
    /// Label of the token
    #[arg(long)]
    token: String,
    /// User PIN
    #[arg(long, env = "HSM_LOOP_PIN", hide_env_values = true)]
    pin: String,
    /// How many
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    keys: u32,
    /// How their labels begin
    #[arg(long, default_value = "key")]
    prefix: String,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hsm-keys: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let functions = initialize(&options.module, None)?;
    let session = open(functions, slot_of(functions, &options.token)?)?;
    log_in(functions, session, &options.pin)?;
    for number in 1..=options.keys {
        make(functions, session, &format!("{}-{number}", options.prefix))?;
    }
    call!(functions, C_Finalize, ptr::null_mut())
}

fn make(functions: &Functions, session: CK_SESSION_HANDLE, label: &str) -> Result<(), String> {
    let mut label = label.as_bytes().to_vec();
    let (mut length, mut yes, mut no) = (32 as CK_ULONG, CK_TRUE, CK_FALSE);
    let mut template =
        vec![attribute(CKA_VALUE_LEN, &mut length), attribute(CKA_LABEL, label.as_mut_slice())];
    let yes = attribute(CKA_TOKEN, &mut yes);
    for type_ in [CKA_TOKEN, CKA_PRIVATE, CKA_SENSITIVE, CKA_ENCRYPT, CKA_DECRYPT] {
        template.push(CK_ATTRIBUTE { type_, ..yes });
    }
    template.push(attribute(CKA_EXTRACTABLE, &mut no));
    let mut mechanism =
        CK_MECHANISM { mechanism: CKM_AES_KEY_GEN, pParameter: ptr::null_mut(), ulParameterLen: 0 };
    let (mut key, count) = (0, template.len() as CK_ULONG);
    call!(functions, C_GenerateKey, session, &mut mechanism, template.as_mut_ptr(), count, &mut key)
}
