//! AES-GCM as a PKCS#11 call takes it.

use std::ptr;

use cryptoki_sys::*;

/// The parameters; without an IV, where the HSM appends it. Both buffers must live for as long as a
/// call may read them.
pub fn gcm_parameters(iv: &mut [u8], aad: &[u8], tag_bytes: usize) -> CK_GCM_PARAMS {
    CK_GCM_PARAMS {
        pIv: if iv.is_empty() { ptr::null_mut() } else { iv.as_mut_ptr() },
        ulIvLen: iv.len() as CK_ULONG,
        ulIvBits: iv.len() as CK_ULONG * 8,
        pAAD: aad.as_ptr().cast_mut(),
        ulAADLen: aad.len() as CK_ULONG,
        ulTagBits: tag_bytes as CK_ULONG * 8,
    }
}

/// The mechanism with these parameters, which must live as long.
pub fn aes_gcm(parameters: &mut CK_GCM_PARAMS) -> CK_MECHANISM {
    CK_MECHANISM {
        mechanism: CKM_AES_GCM,
        pParameter: ptr::from_mut(parameters).cast(),
        ulParameterLen: size_of::<CK_GCM_PARAMS>() as CK_ULONG,
    }
}
