//! Key files whose keys real PKCS#11 modules wrap and open.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ring::rand::{SecureRandom, SystemRandom};
use secret_memory::Wanted;
use test_harness::{Token, own_process, softhsm};
use time::{Duration, OffsetDateTime};
use xksd::key_manager::pkcs11::{Pkcs11Engine, Profile};
use xksd::key_manager::wrapped::edit::{self, RawKey};
use xksd::key_manager::wrapped::key_file::{Encrypted, KeyFile};
use xksd::key_manager::wrapped::wrap::Hsm;
use xksd::key_manager::wrapped::{
    Canary, Finding, Loaded, NotLoaded, Wrapped, load_first, look_at_hsm,
};
use xksd::key_manager::{
    Answer, Cipher, Engine, Fault, InProcess, Job, KeyRef, Outcome, Session, Task, VersionState,
};
use zeroize::Zeroizing;

use crate::engines::{engine, nss_database};
use crate::jobs::job;
use crate::kryoptic;
use crate::simulator::simulator;

const SET: &str = "000102030405060708090a0b0c0d0e0f";

/// A session of an engine; opened again when it was lost.
struct OfEngine {
    engine: Arc<Pkcs11Engine>,
    session: Box<dyn Session>,
}

impl Hsm for OfEngine {
    fn name(&self) -> &str {
        "hsm"
    }

    fn execute(&mut self, key: &KeyRef, task: Task) -> Outcome {
        if !self.session.is_usable() {
            self.session = self.engine.open()?;
        }
        self.session.execute(Job { key: key.clone(), ..job("", task) })
    }
}

/// A module with the masters m1 and m2.
struct Module {
    token: Token,
    engine: Arc<Pkcs11Engine>,
    hsms: Vec<Box<dyn Hsm>>,
    /// Of its IVs.
    iv_bytes: usize,
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn random(bytes: &mut [u8]) -> Result<(), String> {
    SystemRandom::new().fill(bytes).map_err(|_| "no random bytes".to_owned())
}

impl Module {
    fn new((engine, token): (Arc<Pkcs11Engine>, Token), iv_bytes: usize) -> Module {
        for master in ["m1", "m2"] {
            token.make_key(master, 32, &[]);
        }
        let hsms = Module::new_session(&engine);
        Module { token, engine, hsms, iv_bytes }
    }

    fn new_session(engine: &Arc<Pkcs11Engine>) -> Vec<Box<dyn Hsm>> {
        let session = engine.open().expect("opens");
        vec![Box::new(OfEngine { engine: engine.clone(), session })]
    }

    fn new_key(&self) -> RawKey {
        let mut key = Zeroizing::new([0; 32]);
        self.engine.open().and_then(|mut session| session.random(&mut *key)).expect("random");
        assert_ne!(*key, [0; 32]);
        key
    }

    fn seal(&mut self, file: &mut KeyFile) {
        edit::seal(file, &mut self.hsms, &mut random).expect("sealed");
    }

    fn create(&mut self) -> Result<KeyFile, Fault> {
        let key = self.new_key();
        edit::create(&mut self.hsms, (SET, "foo", "m1"), (Cipher::Direct, &key), now())
    }

    fn stage(&mut self, file: &mut KeyFile) {
        let key = self.new_key();
        edit::stage(file, &mut self.hsms, (Cipher::Derived, &key), now()).expect("staged");
    }

    /// Version 0 decrypts, 1 encrypts, 2 is staged.
    fn rotated(&mut self) -> KeyFile {
        let mut file = self.create().expect("made");
        self.seal(&mut file);
        self.stage(&mut file);
        self.seal(&mut file);
        assert_eq!(edit::promote(&mut file, None, now()), Ok(1));
        self.stage(&mut file);
        self.seal(&mut file);
        file
    }

    /// From the bytes on disk, as the server does.
    fn load(&mut self, file: &KeyFile, into: &Wrapped) -> Result<Loaded, NotLoaded> {
        let file = KeyFile::parse(&file.to_text()).map_err(NotLoaded::File)?;
        load_first(&file, &mut self.hsms, into.arena(), now())
    }

    fn why_refused(&mut self, file: &KeyFile) -> NotLoaded {
        let into = Wrapped::new(Wanted::Prefer).expect("memory");
        self.load(file, &into).err().expect("refused")
    }

    fn open(&mut self, file: &KeyFile) -> Wrapped {
        let wrapped = Wrapped::new(Wanted::Prefer).expect("memory");
        let loaded = self.load(file, &wrapped).unwrap_or_else(|why| panic!("{why}"));
        wrapped.open([("foo".into(), Arc::new(loaded))].into(), HashMap::new());
        wrapped
    }
}

/// These keys by label, imported and wrapped in SoftHSM, and opened.
pub(crate) fn imported(keys: &std::collections::BTreeMap<String, Vec<u8>>) -> Wrapped {
    let token = softhsm::new_token(&softhsm::load(), "xks");
    let mut module = Module::new((engine(), token), 12);
    let wrapped = Wrapped::new(Wanted::Prefer).expect("memory");
    let mut opened = HashMap::new();
    for (label, key) in keys {
        let key = Zeroizing::new(key.as_slice().try_into().expect("32 bytes"));
        let names = (SET, label.as_str(), "m1");
        let mut file =
            edit::create(&mut module.hsms, names, (Cipher::Direct, &key), now()).expect("made");
        module.seal(&mut file);
        let loaded = module.load(&file, &wrapped).unwrap_or_else(|why| panic!("{why}"));
        opened.insert(label.as_str().into(), Arc::new(loaded));
    }
    wrapped.open(opened, HashMap::new());
    wrapped
}

fn encrypted(file: &KeyFile) -> impl Iterator<Item = &Encrypted> {
    file.versions.iter().flat_map(|version| &version.wraps).chain(file.seals())
}

/// What a version encrypts in this process.
fn encrypt(keys: &Wrapped, version: u16, cipher: Cipher) -> (KeyRef, Task) {
    let subkey = (cipher == Cipher::Derived).then_some([5; 12]);
    let key = KeyRef { version, subkey, ..KeyRef::first("foo") };
    let (plaintext, aad) = (Zeroizing::new(b"text".to_vec()), b"aad".to_vec());
    let task = Task::Encrypt { plaintext, aad: aad.clone(), integrity: None };
    let deadline = Instant::now() + std::time::Duration::from_secs(60);
    let job = Job { key: key.clone(), task, deadline };
    let Ok(Answer::Encrypted { iv, ciphertext, tag, .. }) = keys.execute(job) else {
        panic!("version {version} encrypts")
    };
    (key, Task::Decrypt { ciphertext, iv, tag, aad })
}

fn opens(keys: &Wrapped, (key, task): &(KeyRef, Task)) -> bool {
    let job = Job { key: key.clone(), ..job("", task.clone()) };
    matches!(keys.execute(job), Ok(Answer::Decrypted(text)) if *text.0 == b"text")
}

/// From the first version to the second master; what was encrypted at the beginning opens at the
/// end.
fn lives(module: &mut Module) {
    let mut file = module.rotated();
    let keys = module.open(&file);
    let ciphers = file.versions.iter().map(|version| (version.version, version.cipher()));
    let messages: Vec<_> = ciphers.map(|(number, cipher)| encrypt(&keys, number, cipher)).collect();
    edit::rewrap(&mut file, &mut module.hsms, "m2").expect("wrapped");
    module.seal(&mut file);
    assert_eq!(edit::masters(&file), ["m1", "m2"]);
    let ivs: HashSet<&[u8]> = encrypted(&file).map(|one| one.iv.0.as_slice()).collect();
    assert_eq!(ivs.len(), 8, "three versions and a seal, each twice; no IV twice");
    assert!(ivs.iter().all(|iv| iv.len() == module.iv_bytes && iv.iter().any(|&b| b != 0)));
    let both = module.open(&file);
    edit::drop_master(&mut file, "m1").expect("dropped");
    edit::disable(&mut file, 2).expect("disabled");
    edit::destroy(&mut file, 2, Duration::DAY, now()).expect("to be destroyed");
    assert!(edit::bury(&mut file, 2, now() + Duration::days(2)));
    module.seal(&mut file);
    assert_eq!(file.versions[2].state, VersionState::Destroyed);
    // m1 is not needed for anything.
    module.token.delete_key("m1");
    let after = module.open(&file);
    for (message, number) in messages.iter().zip(0..) {
        assert!(opens(&keys, message) && opens(&both, message), "version {number}");
        assert_eq!(opens(&after, message), number != 2, "version {number}");
    }
}

/// Each byte of a wrap and of a seal, what belongs to another version, and IVs of other lengths:
/// a fault of the file, and never one of the HSM, which goes on.
fn refuses_what_was_tampered_with(module: &mut Module) {
    let file = module.rotated();
    let mut refused = |changed: &KeyFile, what: &str| {
        let why = module.why_refused(changed);
        assert!(matches!(why, NotLoaded::File(_)), "{what}: {why}");
    };
    type Part = fn(&mut Encrypted) -> &mut Vec<u8>;
    let parts: [(&str, Part); 3] = [
        ("iv", |one| &mut one.iv.0),
        ("ciphertext", |one| &mut one.ciphertext.0),
        ("tag", |one| &mut one.tag.0),
    ];
    for (name, part) in parts {
        let length = part(&mut file.seal.clone()).len();
        for at in 0..length {
            let mut changed = file.clone();
            part(&mut changed.seal)[at] ^= 1 << (at % 8);
            refused(&changed, &format!("{name} of the seal, byte {at}"));
        }
    }
    let mut other_iv = file.clone();
    let iv_bytes = if file.seal.iv.0.len() == 12 { 16 } else { 12 };
    other_iv.seal.iv.0.resize(iv_bytes, 0);
    refused(&other_iv, "an IV of another length");
    // And of whoever could have the master seal what was changed: wraps are bound to their place.
    for (name, part) in parts {
        for at in [0, 11] {
            let mut changed = file.clone();
            part(&mut changed.versions[0].wraps[0])[at] ^= 0x80;
            module.seal(&mut changed);
            let why = module.why_refused(&changed).to_string();
            assert!(why.contains("version 0 is not what the master wrapped"), "{name}: {why}");
        }
    }
    let mut swapped = file.clone();
    let wraps = swapped.versions[1].wraps.clone();
    swapped.versions[1].wraps = std::mem::replace(&mut swapped.versions[2].wraps, wraps);
    module.seal(&mut swapped);
    let why = module.why_refused(&swapped).to_string();
    assert!(why.contains("version 1 is not what the master wrapped"), "{why}");
    // Under the other master it is another file's.
    let mut renamed = file.clone();
    renamed.versions[0].wraps[0].master = "m2".to_owned();
    module.seal(&mut renamed);
    assert!(matches!(module.why_refused(&renamed), NotLoaded::File(_)));
    module.open(&file);
}

/// What the lease asks for.
fn says_whether_it_still_opens(module: &mut Module) {
    let file = module.rotated();
    let canary = Canary::of(&file);
    let Module { token, hsms, .. } = module;
    let mut look = |master| look_at_hsm(&mut *hsms[0], master, Some(&canary));
    assert_eq!(look("m1"), Finding::Yes);
    token.delete_key("m1");
    let Finding::No(why) = look("m1") else { panic!("the master is gone") };
    assert!(why.contains("no secret key labelled \"m1\""), "{why}");
    // Another key of that name.
    token.make_key("m1", 32, &[]);
    std::thread::sleep(xksd::limits::KEY_REFUSAL_AGE_MAX);
    let Finding::No(why) = look("m1") else { panic!("another master") };
    assert!(why.contains("does not open what it sealed"), "{why}");
}

fn all_of_it(module: &mut Module) {
    refuses_what_was_tampered_with(module);
    // This takes the master away.
    lives(module);
    module.token.make_key("m1", 32, &[]);
    // A session may know the old one for a minute where it encrypts by messages.
    module.hsms = Module::new_session(&module.engine);
    says_whether_it_still_opens(module);
}

own_process! {
    fn softhsm_wraps_and_opens_key_files(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        all_of_it(&mut Module::new((engine(), token), 12));
    }
}

own_process! {
    fn nss_wraps_and_opens_key_files(directory) {
        all_of_it(&mut Module::new(nss_database(directory), 12));
    }
}

own_process! {
    #[ignore = "needs kryoptic"]
    fn kryoptic_wraps_and_opens_key_files(directory) {
        all_of_it(&mut Module::new(kryoptic::token(directory), 12));
    }
}

/// The same of a network HSM with habits of its own.
fn simulated(directory: &Path, profile: Profile, config: &str, iv_bytes: usize) {
    let hsm = simulator(directory, config);
    let token = hsm.token();
    all_of_it(&mut Module::new((hsm.engine(profile), token), iv_bytes));
}

own_process! {
    fn a_network_hsm_that_takes_ivs(directory) {
        simulated(directory, Profile::Generic, "", 12);
    }
}

own_process! {
    fn one_that_appends_an_iv_of_16_bytes(directory) {
        let config = "[gcm]\niv = \"append\"\nbad_tag = \"CKR_ENCRYPTED_DATA_INVALID\"";
        simulated(directory, Profile::Luna, config, 16);
    }
}

own_process! {
    fn one_that_appends_it_and_has_another_code_for_a_bad_tag(directory) {
        let config = "[gcm]\niv = \"append\"\nbad_tag = \"CKR_SIGNATURE_INVALID\"";
        simulated(directory, Profile::Luna, config, 16);
    }
}

own_process! {
    fn one_that_fills_its_iv_in(directory) {
        let config = "[gcm]\niv = \"fill\"\nbad_tag = \"CKR_FUNCTION_FAILED\"";
        simulated(directory, Profile::NShield, config, 12);
    }
}

own_process! {
    fn one_that_fills_it_in_at_the_end(directory) {
        let config = "[gcm]\niv = \"fill\"\niv_written = \"encrypt\"\nbad_tag = \
                \"CKR_FUNCTION_FAILED\"";
        simulated(directory, Profile::CloudHsm, config, 12);
    }
}

own_process! {
    fn an_hsm_that_lies_is_found_out_and_not_taken_for_a_wrong_file(directory) {
        let hsm = simulator(directory, "seed = 1");
        let token = hsm.token();
        let engine = hsm.engine(Profile::Generic);
        let mut module = Module::new((engine, token), 12);
        let file = module.rotated();
        let raw = |module: &mut Module, number: usize| {
            edit::raw_key(&file, &file.versions[number], &mut module.hsms)
        };
        let honest = raw(&mut module, 0).expect("opens");

        // It says a key that is not the one that it wrapped.
        hsm.control("wrong_plaintext = 1.0");
        let why = module.why_refused(&file);
        assert!(matches!(&why, NotLoaded::Hsm(Fault::Device { .. })), "it may pass: {why:?}");
        assert!(why.to_string().contains("another check value"), "{why}");
        let told = raw(&mut module, 0).expect_err("found out");
        assert!(told.contains("another key than it wrapped"), "{told}");
        // What it encrypts is decrypted again before it counts.
        for fault in [module.create().err(), module.create().err()] {
            assert!(matches!(fault, Some(Fault::Device { .. })), "{fault:?}");
        }
        let mut changed = file.clone();
        assert!(edit::rewrap(&mut changed, &mut module.hsms, "m2").is_err());
        assert!(edit::seal(&mut changed, &mut module.hsms, &mut random).is_err());

        // Sometimes only.
        hsm.control("corrupt_ciphertext = 0.5");
        let (mut good, mut bad) = (0, 0);
        for _ in 0..40 {
            // One engine goes on being suspicious.
            module.hsms = Module::new_session(&hsm.engine(Profile::Generic));
            match module.create() {
                Ok(made) => {
                    let read = edit::raw_key(&made, &made.versions[0], &mut module.hsms);
                    assert!(read.is_ok(), "what counts can be opened");
                    good += 1;
                }
                Err(Fault::Device { .. }) => bad += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(good > 0 && bad > 0, "{good} good, {bad} bad");
        hsm.control("");
        module.hsms = Module::new_session(&hsm.engine(Profile::Generic));
        assert_eq!(raw(&mut module, 0).expect("opens"), honest);
        module.open(&file);
    }
}
