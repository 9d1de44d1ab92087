//! The PKCS#11 key manager over real modules. Each test runs in its own process, which loads one.

mod engines;
mod jobs;
mod simulator;

mod bad_key;
mod faults;
mod habits;
mod integrity;
mod inventory;
mod kryoptic;
mod messages;
mod nss;
mod recovery;
mod softhsm;
mod test_key;
mod vanished;
mod vectors;
mod vendors;
mod wrapped;
