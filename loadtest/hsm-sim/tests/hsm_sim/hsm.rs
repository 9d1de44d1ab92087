//! A process, a token and a configuration for each test, and calls of the module.

use std::ops::Deref;
use std::path::Path;
use std::process::Command;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use cryptoki_sys::*;
use hsm_sim::codes;
use hsm_sim::mechanism::{aes_gcm, gcm_parameters};
use hsm_sim::real::{self, Functions};
use test_harness::hsm_sim::Files;
use test_harness::own_process::in_own_process_with;
pub use test_harness::programs::hsm_sim as module;
pub use test_harness::softhsm::module as softhsm;
use test_harness::token::PIN;

/// AAD of all tests.
pub const AAD: &[u8] = b"project=nile";
/// Plaintext of all tests.
pub const DATA: &[u8] = b"the quick brown fox jumps over..";
pub const TAG_BYTES: usize = 16;

/// Runs `body` in its own process under `config`, to which module, control and stats are added.
/// `test` is the test's path.
pub fn isolated(test: &str, config: &str, body: impl FnOnce(&Path)) {
    let prepare = |directory: &Path, command: &mut Command| {
        let path = |name: &str| directory.join(name);
        let config = Files::new(directory, "").configuration(&softhsm(), config);
        std::fs::write(path("hsm-sim.toml"), config).unwrap();
        let token = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", "test", "--so-pin", "0000", "--pin", PIN])
            .env("SOFTHSM2_CONF", path("softhsm2.conf"))
            .output()
            .unwrap();
        assert!(token.status.success(), "{token:?}");
        command.env("HSM_SIM_CONFIG", path("hsm-sim.toml"));
    };
    in_own_process_with(test, prepare, body);
}

/// The module, initialised.
pub struct Hsm {
    files: Files,
    pub pkcs11: Pkcs11,
    pub functions: &'static Functions,
    pub slot: Slot,
}

/// Calls a function of the raw list and gives its code by name.
macro_rules! raw {
    ($functions:expr, $name:ident $(, $argument:expr)*) => {{
        // SAFETY: pointers among the arguments are to live values of the lengths given with them.
        let code = unsafe { $functions.$name.unwrap()($($argument),*) };
        hsm_sim::codes::name(code)
    }};
}
pub(crate) use raw;

/// C_Initialize with locking by the operating system: `CKR_…`.
pub fn initialize(functions: &Functions) -> String {
    let mut arguments = CK_C_INITIALIZE_ARGS { flags: CKF_OS_LOCKING_OK, ..Default::default() };
    raw!(functions, C_Initialize, (&raw mut arguments).cast())
}

impl Deref for Hsm {
    type Target = Files;

    fn deref(&self) -> &Files {
        &self.files
    }
}

impl Hsm {
    pub fn start(directory: &Path) -> Hsm {
        let pkcs11 = Pkcs11::new(module()).unwrap();
        pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        let functions = real::load(&module()).unwrap();
        let slot = pkcs11.get_slots_with_token().unwrap()[0];
        Hsm { files: Files::new(directory, ""), pkcs11, functions, slot }
    }

    pub fn open(&self) -> Session {
        self.pkcs11.open_rw_session(self.slot).unwrap()
    }

    /// A session that is logged in, and a token key.
    pub fn session_and_key(&self) -> (Session, ObjectHandle) {
        let session = self.open();
        session.login(UserType::User, Some(&AuthPin::new(PIN.into()))).unwrap();
        let template = [
            Attribute::ValueLen(32.into()),
            Attribute::Token(true),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Label(b"key".to_vec()),
        ];
        let key = session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
        (session, key)
    }

    pub fn login(&self, session: &Session) -> String {
        let mut pin = PIN.as_bytes().to_vec();
        raw!(
            self.functions,
            C_Login,
            session.handle(),
            CKU_USER,
            pin.as_mut_ptr(),
            pin.len() as CK_ULONG
        )
    }

    pub fn encrypt_init(&self, session: &Session, key: ObjectHandle, iv: &mut [u8]) -> String {
        let mut parameters = gcm_parameters(iv, AAD, TAG_BYTES);
        let mut mechanism = aes_gcm(&mut parameters);
        raw!(self.functions, C_EncryptInit, session.handle(), &mut mechanism, key.handle())
    }

    pub fn decrypt_init(&self, session: &Session, key: ObjectHandle, iv: &mut [u8]) -> String {
        let mut parameters = gcm_parameters(iv, AAD, TAG_BYTES);
        let mut mechanism = aes_gcm(&mut parameters);
        raw!(self.functions, C_DecryptInit, session.handle(), &mut mechanism, key.handle())
    }

    /// C_Encrypt with this much room; the output as long as the module says.
    pub fn encrypt(&self, session: &Session, room: usize) -> (String, Vec<u8>) {
        let mut data = DATA.to_vec();
        self.transform(self.functions.C_Encrypt, session, &mut data, room)
    }

    pub fn decrypt(&self, session: &Session, encrypted: &[u8]) -> (String, Vec<u8>) {
        self.transform(self.functions.C_Decrypt, session, &mut encrypted.to_vec(), encrypted.len())
    }

    fn transform(
        &self,
        function: CK_C_Encrypt,
        session: &Session,
        data: &mut [u8],
        room: usize,
    ) -> (String, Vec<u8>) {
        let (mut out, mut out_len) = (vec![0; room], room as CK_ULONG);
        // SAFETY: live buffers of these lengths.
        let code = unsafe {
            function.unwrap()(
                session.handle(),
                data.as_mut_ptr(),
                data.len() as CK_ULONG,
                out.as_mut_ptr(),
                &mut out_len,
            )
        };
        out.resize(out_len as usize, 0);
        (codes::name(code), out)
    }

    /// Encrypts under the caller's IV; everything must go well.
    pub fn encrypted(&self, session: &Session, key: ObjectHandle, iv: &mut [u8]) -> Vec<u8> {
        assert_eq!(self.encrypt_init(session, key, iv), "CKR_OK");
        let (code, out) = self.encrypt(session, DATA.len() + TAG_BYTES);
        assert_eq!(code, "CKR_OK");
        out
    }

    /// C_DecryptInit, which must go well, and C_Decrypt.
    pub fn decrypted(
        &self,
        session: &Session,
        key: ObjectHandle,
        iv: &mut [u8],
        encrypted: &[u8],
    ) -> (String, Vec<u8>) {
        assert_eq!(self.decrypt_init(session, key, iv), "CKR_OK");
        self.decrypt(session, encrypted)
    }
}
