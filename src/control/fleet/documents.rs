//! The documents that this instance holds: in memory, on its disk, and in force.
//!
//! On disk they lie as they were sealed, in `fleet/documents`, so that what was changed there is
//! found; files are written whole to `fleet/files` besides, from where the configuration names
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ring::rand::{SecureRandom, SystemRandom};

use crate::control::blocks::{self, Blocks};
use crate::control::state_dir::{Folder, StateDir};
use crate::fleet::document::{self, BLOCKS, file_of};
use crate::fleet::sealed::NONCE_BYTES;
use crate::fleet::{Content, Document, FleetKey, Verdict};
use crate::limits::{
    FLEET_DOCUMENT_BYTES_MAX, FLEET_DOCUMENTS_MAX, FLEET_FILE_BYTES_MAX, STATE_RETRY_INTERVAL,
};
use crate::policy::blocklist::BlockList;

const SEALED_FOLDER: &str = "fleet/documents";
const FILES_FOLDER: &str = "fleet/files";
const EXTENSION: &str = ".sealed";
/// Before the name of a file, in the name of its document's file.
const FILE: &str = "file-";

/// The documents of a fleet on this instance.
pub struct Documents {
    key: FleetKey,
    sealed: Folder,
    files: Folder,
    blocks: Arc<Blocks>,
    held: Mutex<Held>,
    /// Set when a file has another content, until [`Documents::files_changed`] has said so.
    files_changed: AtomicBool,
}

#[derive(Default)]
struct Held {
    all: BTreeMap<String, Document>,
    /// In force and not on disk.
    unsaved: BTreeSet<String>,
    /// Held and not in force, and why.
    not_applied: BTreeMap<String, String>,
    retry: Option<Instant>,
}

impl Documents {
    /// As they were kept. All are in force when this returns, but for files that another hand had
    /// changed: they are put right, and the configuration may have been read from them.
    ///
    /// # Errors
    /// A sentence for the operator. What cannot be read is never taken for nothing.
    pub fn load(key: FleetKey, dir: &StateDir, blocks: Arc<Blocks>) -> Result<Documents, String> {
        let (sealed, files) = (dir.folder(SEALED_FOLDER)?, dir.folder(FILES_FOLDER)?);
        let (held, files_changed) = (Mutex::default(), AtomicBool::new(false));
        let documents = Documents { key, sealed, files, blocks, held, files_changed };
        for file in documents.sealed.names()? {
            documents.load_one(&file).map_err(|why| {
                format!(
                    "fleet: {}: {why}. It says what the fleet has blocked and who may sign, so \
                     xksd does not start without it. If fleet.secret or fleet.etcd.prefix is \
                     another one now: docs/fleet.md, \"Change the secret\"",
                    documents.sealed.path().join(&file).display()
                )
            })?;
        }
        Ok(documents)
    }

    fn load_one(&self, file: &str) -> Result<(), String> {
        let name = document_of(file).ok_or("no document has such a name")?;
        let content = self.sealed.read(file, FLEET_DOCUMENT_BYTES_MAX)?;
        let document = Document::open(&self.key, &name, &content.bytes);
        let document = document.ok_or("it was changed, or sealed with another secret")?;
        let mut held = self.lock();
        self.apply(&mut held, &name, &document);
        if let Some(why) = held.not_applied.get(&name) {
            return Err(why.clone());
        }
        held.all.insert(name, document);
        Ok(())
    }

    /// The fleet's key.
    pub fn key(&self) -> &FleetKey {
        &self.key
    }

    /// Where the file of this name lies.
    pub fn path_of(&self, file: &str) -> PathBuf {
        self.files.path().join(file)
    }

    /// Whether this is one of the fleet's files.
    pub fn is_file(&self, path: &Path) -> bool {
        let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
        folder.is_some_and(|folder| self.files.path().canonicalize().is_ok_and(|own| own == folder))
    }

    /// The document of this name, if there was one.
    pub fn get(&self, name: &str) -> Option<Document> {
        self.lock().all.get(name).cloned()
    }

    /// Names of all that it holds.
    pub fn names(&self) -> Vec<String> {
        self.lock().all.keys().cloned().collect()
    }

    /// Seals a document that is not yet in force.
    ///
    /// # Errors
    /// When there are no random numbers, or it is too long.
    pub fn seal(&self, name: &str, sequence: u64, content: Content) -> Result<Document, String> {
        if let Content::Present(bytes) = &content
            && file_of(name).is_some()
            && bytes.len() > FLEET_FILE_BYTES_MAX
        {
            return Err(format!("longer than {FLEET_FILE_BYTES_MAX} bytes"));
        }
        let document = Document::seal(&self.key, name, sequence, nonce()?, content);
        if document.sealed.len() > FLEET_DOCUMENT_BYTES_MAX {
            return Err(format!("longer than {FLEET_DOCUMENT_BYTES_MAX} bytes"));
        }
        Ok(document)
    }

    /// Takes over what was found in etcd, if that is newer than what is held.
    ///
    /// # Errors
    /// Why it is refused. Nothing has changed then.
    pub fn take(&self, name: &str, sealed: &[u8]) -> Result<Verdict, String> {
        if !document::is_document(name) || sealed.len() > FLEET_DOCUMENT_BYTES_MAX {
            return Err("no document of this xksd has this name and length".to_owned());
        }
        let document = Document::open(&self.key, name, sealed)
            .ok_or("it was not sealed with the fleet's secret for this name, or was changed")?;
        let mut held = self.lock();
        let before = held.all.get(name);
        let verdict = document.verdict(before);
        let numbers = before.map_or(0, |before| before.sequence);
        match verdict {
            Verdict::Same => {}
            Verdict::Older => {
                return Err(format!(
                    "it is older: number {}, {numbers} is held",
                    document.sequence
                ));
            }
            Verdict::Conflict => {
                return Err(format!("another document with the number {numbers} is held"));
            }
            Verdict::Newer => {
                if before.is_none() && held.all.len() >= FLEET_DOCUMENTS_MAX {
                    return Err(format!("{FLEET_DOCUMENTS_MAX} documents are held already"));
                }
                self.apply(&mut held, name, &document);
                self.save(&mut held, name, &document);
                held.all.insert(name.to_owned(), document);
            }
        }
        Ok(verdict)
    }

    /// Whether files have changed since this was asked last.
    pub fn files_changed(&self) -> bool {
        self.files_changed.swap(false, Ordering::Relaxed)
    }

    /// Files may have to be taken over although none has changed.
    pub fn look_again(&self) {
        self.files_changed.store(true, Ordering::Relaxed);
    }

    /// To be called now and then: tries again what could not be saved or put in force.
    pub fn tick(&self, now: Instant) {
        let mut held = self.lock();
        if held.retry.is_none_or(|at| at > now) {
            return;
        }
        held.retry = None;
        let wanted: BTreeSet<String> =
            held.unsaved.iter().chain(held.not_applied.keys()).cloned().collect();
        for name in wanted {
            let Some(document) = held.all.get(&name).cloned() else { continue };
            self.apply(&mut held, &name, &document);
            self.save(&mut held, &name, &document);
        }
    }

    /// Sequence of each that is in force.
    pub fn applied(&self) -> BTreeMap<String, u64> {
        let held = self.lock();
        let applied = held.all.iter().filter(|(name, _)| !held.not_applied.contains_key(*name));
        applied.map(|(name, document)| (name.clone(), document.sequence)).collect()
    }

    /// What is held and is not in force, or not on disk, and why.
    pub fn not_applied(&self) -> BTreeMap<String, String> {
        let held = self.lock();
        let mut all = held.not_applied.clone();
        for name in &held.unsaved {
            all.entry(name.clone()).or_insert_with(|| "it is not on disk yet".to_owned());
        }
        all
    }

    fn apply(&self, held: &mut Held, name: &str, document: &Document) {
        let applied = match file_of(name) {
            Some(file) => self.apply_file(file, &document.content),
            None => self.apply_blocks(&document.content),
        };
        match applied {
            Ok(()) => drop(held.not_applied.remove(name)),
            Err(why) => {
                held.not_applied.insert(name.to_owned(), why);
                held.retry = Some(Instant::now() + STATE_RETRY_INTERVAL);
            }
        }
    }

    fn apply_blocks(&self, content: &Content) -> Result<(), String> {
        self.blocks.set_fleet(block_list(content)?);
        Ok(())
    }

    fn apply_file(&self, file: &str, content: &Content) -> Result<(), String> {
        match content {
            Content::Removed => self.files.remove(file)?,
            Content::Present(bytes) => {
                let found = self.files.read(file, FLEET_FILE_BYTES_MAX);
                if found.is_ok_and(|found| found.bytes == *bytes) {
                    return Ok(());
                }
                self.files.write(file, bytes)?;
            }
        }
        self.files_changed.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn save(&self, held: &mut Held, name: &str, document: &Document) {
        match self.sealed.write(&file_name(name), &document.sealed) {
            Ok(()) => drop(held.unsaved.remove(name)),
            Err(_) => {
                held.unsaved.insert(name.to_owned());
                held.retry = Some(Instant::now() + STATE_RETRY_INTERVAL);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For a start without an etcd: nobody could open what the fleet had blocked here.
///
/// # Errors
/// Where there is such a block list, or nobody can tell.
pub fn refuse_forgotten_blocks(dir: &StateDir) -> Result<(), String> {
    let name = format!("{SEALED_FOLDER}/{}", file_name(BLOCKS));
    if dir.read(&name, FLEET_DOCUMENT_BYTES_MAX)?.is_none() {
        return Ok(());
    }
    Err(format!(
        "fleet.etcd is missing, and {} says what the fleet has blocked: without fleet.etcd and \
         fleet.secret nothing of it would be blocked here, so xksd does not start. Bring them \
         back; if this instance has left the fleet, block here what is to stay blocked and remove \
         that file: docs/fleet.md, \"Leave the fleet\"",
        dir.path().join(&name).display()
    ))
}

/// The block list that the document [`BLOCKS`] says.
///
/// # Errors
/// When this xksd does not understand it.
pub fn block_list(content: &Content) -> Result<BlockList, String> {
    match content {
        Content::Removed => Ok(BlockList::default()),
        Content::Present(text) => blocks::parse(text),
    }
}

/// Random bytes for a seal.
///
/// # Errors
/// When there are none.
pub fn nonce() -> Result<[u8; NONCE_BYTES], String> {
    let mut nonce = [0; NONCE_BYTES];
    let failed = |_| "the operating system gives no random numbers".to_owned();
    SystemRandom::new().fill(&mut nonce).map_err(failed)?;
    Ok(nonce)
}

fn file_name(document: &str) -> String {
    match file_of(document) {
        Some(file) => format!("{FILE}{file}{EXTENSION}"),
        None => format!("{document}{EXTENSION}"),
    }
}

fn document_of(file_name: &str) -> Option<String> {
    let name = file_name.strip_suffix(EXTENSION)?;
    match name.strip_prefix(FILE) {
        Some(file) => Some(document::of_file(file)).filter(|name| document::is_document(name)),
        None => Some(name.to_owned()).filter(|name| name == BLOCKS),
    }
}
