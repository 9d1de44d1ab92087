//! AES-GCM as the makers of HSMs have it: who makes the IV, where it is found, which code a wrong
//! tag gives; and answers that are wrong.

use std::ptr;
use std::slice;
use std::sync::atomic::Ordering;

use cryptoki_sys::*;

use crate::config::{Gcm, IvMode, IvWritten};
use crate::control::Faults;
use crate::locks::lock;
use crate::mechanism::aes_gcm;
use crate::real::Functions;
use crate::session::{PendingEncryption, Session};
use crate::stats::{InjectedFault, STATS};

/// IV that mode `append` puts after the tag, bytes.
const APPENDED_IV_BYTES: usize = 16;
/// IVs that mode `fill` accepts, bytes.
const FILLED_IV_BYTES: std::ops::RangeInclusive<usize> = 12..=256;

/// C_EncryptInit.
///
/// # Safety
/// `mechanism` is what C_EncryptInit takes.
pub unsafe fn encrypt_init(
    functions: &Functions,
    session: &Session,
    gcm: &Gcm,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    let Some(encrypt_init) = functions.C_EncryptInit else { return CKR_FUNCTION_NOT_SUPPORTED };
    // SAFETY: the caller says that it points to a mechanism, or it is null.
    let given = unsafe { mechanism.as_ref() };
    if gcm.absent && given.is_some_and(|given| given.mechanism == CKM_AES_GCM) {
        return CKR_MECHANISM_INVALID;
    }
    let Some(given) =
        given.filter(|given| given.mechanism == CKM_AES_GCM && gcm.iv != IvMode::Caller)
    else {
        // SAFETY: the caller's arguments, passed on.
        let code = unsafe { encrypt_init(session.real, mechanism, key) };
        if code == CKR_OK {
            session.end_encryption();
        }
        return code;
    };
    if given.pParameter.is_null() || given.ulParameterLen as usize != size_of::<CK_GCM_PARAMS>() {
        return CKR_MECHANISM_PARAM_INVALID;
    }
    // SAFETY: not null, and the caller says that it has this size.
    let parameters = unsafe { given.pParameter.cast::<CK_GCM_PARAMS>().read_unaligned() };
    let iv_bytes = match gcm.iv {
        IvMode::Append if parameters.ulIvLen == 0 => APPENDED_IV_BYTES,
        // SAFETY: the caller says that pIv, if it is not null, points to ulIvLen bytes.
        IvMode::Fill if unsafe { is_fillable(&parameters) } => parameters.ulIvLen as usize,
        _ => return CKR_MECHANISM_PARAM_INVALID,
    };
    let mut iv = vec![0; iv_bytes];
    if !random(&mut iv) {
        return CKR_DEVICE_ERROR;
    }
    let mut own = CK_GCM_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: iv_bytes as CK_ULONG,
        ulIvBits: iv_bytes as CK_ULONG * 8,
        ..parameters
    };
    let mut mechanism = aes_gcm(&mut own);
    // SAFETY: our copy of the caller's parameters with our IV, all alive during the call.
    let code = unsafe { encrypt_init(session.real, &mut mechanism, key) };
    if code != CKR_OK {
        return code;
    }
    let mut write_to = None;
    if gcm.iv == IvMode::Fill {
        match gcm.iv_written {
            // SAFETY: the caller's buffer of this many bytes, which was read above.
            IvWritten::Init => unsafe {
                ptr::copy_nonoverlapping(iv.as_ptr(), parameters.pIv, iv.len())
            },
            IvWritten::Encrypt => write_to = Some(parameters.pIv.expose_provenance()),
        }
    }
    let tag_bytes = (parameters.ulTagBits as usize).div_ceil(8);
    *lock(&session.pending) =
        Some(PendingEncryption { iv, tag_bytes, write_to, append: gcm.iv == IvMode::Append });
    CKR_OK
}

/// Puts a mechanism that nobody has in the place of AES-GCM.
///
/// # Safety
/// After a C_GetMechanismList that succeeded: `mechanisms` is null, or `count` of them are there.
pub unsafe fn strike_out(mechanisms: *mut CK_MECHANISM_TYPE, count: *const CK_ULONG) {
    if mechanisms.is_null() {
        return;
    }
    // SAFETY: the real module, which succeeded, has written both.
    let mechanisms = unsafe { slice::from_raw_parts_mut(mechanisms, *count as usize) };
    for mechanism in mechanisms.iter_mut().filter(|mechanism| **mechanism == CKM_AES_GCM) {
        *mechanism = CKM_VENDOR_DEFINED;
    }
}

/// Whether the caller left a place of zeros for the IV.
///
/// # Safety
/// `pIv`, if it is not null, points to `ulIvLen` bytes.
unsafe fn is_fillable(parameters: &CK_GCM_PARAMS) -> bool {
    let length = parameters.ulIvLen as usize;
    if parameters.pIv.is_null() || !FILLED_IV_BYTES.contains(&length) {
        return false;
    }
    // SAFETY: as this function says; not null.
    unsafe { slice::from_raw_parts(parameters.pIv, length) }.iter().all(|byte| *byte == 0)
}

/// From the operating system and not from the seed: keys outlive the process, and an IV must not
/// come back under a key.
fn random(bytes: &mut [u8]) -> bool {
    // SAFETY: a valid buffer of this length. Up to 256 bytes come whole.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) == bytes.len() as isize }
}

/// The caller's buffers of a call that transforms data at once.
#[derive(Clone, Copy)]
pub struct Buffers {
    /// Input.
    pub data: *mut CK_BYTE,
    /// Its length.
    pub data_len: CK_ULONG,
    /// Output, or null to ask for its length.
    pub out: *mut CK_BYTE,
    /// Space for it, and then its length.
    pub out_len: *mut CK_ULONG,
}

/// A call of the real module's that transforms data at once: C_Encrypt or C_Decrypt.
type Transform = unsafe extern "C" fn(
    CK_SESSION_HANDLE,
    *mut CK_BYTE,
    CK_ULONG,
    *mut CK_BYTE,
    *mut CK_ULONG,
) -> CK_RV;

/// C_Encrypt.
///
/// # Safety
/// `buffers` are what C_Encrypt takes.
pub unsafe fn encrypt(
    functions: &Functions,
    session: &Session,
    faults: &Faults,
    buffers: Buffers,
) -> CK_RV {
    let Some(encrypt) = functions.C_Encrypt else { return CKR_FUNCTION_NOT_SUPPORTED };
    let pending = lock(&session.pending).clone();
    let appended = pending.as_ref().filter(|pending| pending.append);
    let available = match appended {
        // SAFETY: the buffers are what C_Encrypt takes.
        Some(pending) => match unsafe { bytes_before_iv(&buffers, pending) } {
            Ok(bytes) => Some(bytes),
            Err(code) => return code,
        },
        None => None,
    };
    let mut length = available.unwrap_or_default();
    let out_len = if appended.is_some() { &raw mut length } else { buffers.out_len };
    // SAFETY: the caller's buffers; the length given is 16 bytes less than the caller's where the
    // IV follows.
    let code =
        unsafe { encrypt(session.real, buffers.data, buffers.data_len, buffers.out, out_len) };
    if code == CKR_OK && !buffers.out.is_null() {
        // SAFETY: CKR_OK: the real module wrote the length, and that many bytes of output.
        unsafe {
            flip(
                buffers.out,
                *out_len,
                session,
                faults.corrupt_ciphertext,
                InjectedFault::CorruptCiphertext,
            )
        };
    }
    if let Some(pending) = pending {
        // SAFETY: the caller's buffers, with space for the IV after `length` bytes as was checked
        // above.
        unsafe { finish(code, session, &pending, length, buffers.out, buffers.out_len) };
    }
    code
}

/// How much of the caller's buffer the real module may use, so that the IV fits behind; `Err` is
/// the answer to a caller that asks for the length (CKR_OK) or has too little space. GCM's output
/// has one length, so the real module need not be asked (NSS answers wrongly).
///
/// # Safety
/// `buffers` are what C_Encrypt takes.
unsafe fn bytes_before_iv(
    buffers: &Buffers,
    pending: &PendingEncryption,
) -> Result<CK_ULONG, CK_RV> {
    // SAFETY: null, or the caller's length.
    let Some(out_len) = (unsafe { buffers.out_len.as_mut() }) else {
        return Err(CKR_ARGUMENTS_BAD);
    };
    let needed =
        buffers.data_len.saturating_add((pending.tag_bytes + APPENDED_IV_BYTES) as CK_ULONG);
    if buffers.out.is_null() || *out_len < needed {
        *out_len = needed;
        return Err(if buffers.out.is_null() { CKR_OK } else { CKR_BUFFER_TOO_SMALL });
    }
    Ok(*out_len - APPENDED_IV_BYTES as CK_ULONG)
}

/// After the real call: hands the IV over, if the encryption is done.
///
/// # Safety
/// After CKR_OK with mode `append`, `out` has space for the IV after `length` bytes.
unsafe fn finish(
    code: CK_RV,
    session: &Session,
    pending: &PendingEncryption,
    length: CK_ULONG,
    out: *mut CK_BYTE,
    out_len: *mut CK_ULONG,
) {
    if code == CKR_BUFFER_TOO_SMALL || (code == CKR_OK && out.is_null()) {
        // The operation goes on.
        return;
    }
    session.end_encryption();
    if code != CKR_OK {
        return;
    }
    if pending.append {
        // SAFETY: as this function says.
        unsafe {
            ptr::copy_nonoverlapping(
                pending.iv.as_ptr(),
                out.add(length as usize),
                pending.iv.len(),
            );
            *out_len = length + pending.iv.len() as CK_ULONG;
        }
    }
    if let Some(address) = pending.write_to {
        // SAFETY: the buffer the caller gave with C_EncryptInit; the README says that it must live
        // until here in this mode.
        unsafe {
            ptr::copy_nonoverlapping(
                pending.iv.as_ptr(),
                ptr::with_exposed_provenance_mut(address),
                pending.iv.len(),
            )
        };
    }
}

/// C_EncryptFinal.
///
/// # Safety
/// `out` and `out_len` are what C_EncryptFinal takes.
pub unsafe fn encrypt_final(
    functions: &Functions,
    session: &Session,
    out: *mut CK_BYTE,
    out_len: *mut CK_ULONG,
) -> CK_RV {
    let Some(encrypt_final) = functions.C_EncryptFinal else { return CKR_FUNCTION_NOT_SUPPORTED };
    let pending = lock(&session.pending).clone();
    let iv_bytes = APPENDED_IV_BYTES as CK_ULONG;
    // SAFETY: null, or the caller's length.
    let (Some(pending), Some(available)) = (pending, unsafe { out_len.as_mut() }) else {
        // SAFETY: the caller's arguments, passed on.
        return unsafe { encrypt_final(session.real, out, out_len) };
    };
    if !pending.append {
        // SAFETY: the caller's arguments, passed on; the IV is not written to `out` in this mode.
        unsafe {
            let code = encrypt_final(session.real, out, available);
            finish(code, session, &pending, 0, out, available);
            return code;
        }
    }
    let asks = out.is_null() || *available < iv_bytes;
    let mut length = available.saturating_sub(iv_bytes);
    let target = if asks { ptr::null_mut() } else { out };
    // SAFETY: the caller's buffer with 16 bytes less than it has, or a question for the
    // length.
    let code = unsafe { encrypt_final(session.real, target, &mut length) };
    if asks || code == CKR_BUFFER_TOO_SMALL {
        *available = length.saturating_add(iv_bytes);
        return if code == CKR_OK && !out.is_null() { CKR_BUFFER_TOO_SMALL } else { code };
    }
    // SAFETY: after CKR_OK the real module wrote `length` bytes, 16 less than there are at most.
    unsafe { finish(code, session, &pending, length, out, available) };
    code
}

/// C_DecryptInit: remembers what it is about.
///
/// # Safety
/// `mechanism` is what C_DecryptInit takes.
pub unsafe fn decrypt_init(
    functions: &Functions,
    session: &Session,
    gcm: &Gcm,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    let Some(decrypt_init) = functions.C_DecryptInit else { return CKR_FUNCTION_NOT_SUPPORTED };
    // SAFETY: the caller says that it points to a mechanism, or it is null.
    let is_gcm =
        unsafe { mechanism.as_ref() }.is_some_and(|mechanism| mechanism.mechanism == CKM_AES_GCM);
    if gcm.absent && is_gcm {
        return CKR_MECHANISM_INVALID;
    }
    // SAFETY: the caller's arguments, passed on.
    let code = unsafe { decrypt_init(session.real, mechanism, key) };
    if code == CKR_OK {
        session.decrypts_gcm.store(is_gcm, Ordering::Relaxed);
    }
    code
}

/// C_Decrypt.
///
/// # Safety
/// `buffers` are what C_Decrypt takes.
pub unsafe fn decrypt(
    functions: &Functions,
    session: &Session,
    gcm: &Gcm,
    faults: &Faults,
    buffers: Buffers,
) -> CK_RV {
    let Some(decrypt) = functions.C_Decrypt else { return CKR_FUNCTION_NOT_SUPPORTED };
    // SAFETY: the caller's arguments, passed on.
    let code = unsafe {
        decrypt(session.real, buffers.data, buffers.data_len, buffers.out, buffers.out_len)
    };
    if code == CKR_OK && !buffers.out.is_null() {
        // SAFETY: CKR_OK: the real module wrote the length, and that many bytes of output.
        unsafe {
            flip(
                buffers.out,
                *buffers.out_len,
                session,
                faults.wrong_plaintext,
                InjectedFault::WrongPlaintext,
            )
        };
    }
    bad_tag(code, session, gcm)
}

/// The code of the configured device in place of the real module's, where that says that the tag
/// does not match.
pub fn bad_tag(code: CK_RV, session: &Session, gcm: &Gcm) -> CK_RV {
    // SoftHSM's code; NSS's and kryoptic's; that of PKCS#11 3.0.
    let says_so =
        matches!(code, CKR_GENERAL_ERROR | CKR_ENCRYPTED_DATA_INVALID | CKR_AEAD_DECRYPT_FAILED);
    match gcm.bad_tag {
        Some(bad_tag) if says_so && session.decrypts_gcm.load(Ordering::Relaxed) => bad_tag.0,
        _ => code,
    }
}

/// Flips one bit with this probability.
///
/// # Safety
/// `start` points to `length` bytes.
unsafe fn flip(
    start: *mut CK_BYTE,
    length: CK_ULONG,
    session: &Session,
    probability: f64,
    what: InjectedFault,
) {
    let data = &session.streams.data;
    let (hit, place) = (data.happens(probability), data.next());
    if hit && length > 0 {
        STATS.injected(what);
        // SAFETY: as this function says.
        let bytes = unsafe { slice::from_raw_parts_mut(start, length as usize) };
        bytes[(place >> 3) as usize % length as usize] ^= 1 << (place & 7);
    }
}

/// Ends an operation whose call is answered with an error: the standard says that it is over then.
/// The result goes nowhere.
///
/// # Safety
/// `buffers` are what `transform`, the real C_Encrypt or C_Decrypt, takes.
pub unsafe fn discard(transform: Option<Transform>, session: &Session, buffers: Buffers) {
    session.end_encryption();
    let Some(transform) = transform.filter(|_| !buffers.data.is_null()) else { return };
    // Longest tag and one block of padding.
    let mut scratch = vec![0; buffers.data_len as usize + 64];
    let mut length = scratch.len() as CK_ULONG;
    // SAFETY: the caller's input, and output of our own that is longer than any of it.
    unsafe {
        transform(session.real, buffers.data, buffers.data_len, scratch.as_mut_ptr(), &mut length)
    };
}
