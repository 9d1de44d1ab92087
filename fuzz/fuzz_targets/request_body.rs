//! Any bytes as the body of each of the four calls: an answer, never a panic, and nothing accepted
//! beyond the limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xksd::api::{Call, Operation, decode};
use xksd::limits::{
    AAD_BYTES_MAX, CIPHERTEXT_METADATA_BYTES_MAX, ERROR_MESSAGE_CHARS_MAX, PLAINTEXT_BYTES_MAX,
};

fuzz_target!(|body: &[u8]| {
    for operation in Operation::ALL {
        match decode(operation, body) {
            Ok(request) => {
                let (metadata, call) = request.into_parts();
                assert!(metadata.kms_request_id.is_some() && metadata.kms_operation.is_some());
                match call {
                    Call::Encrypt(call) => {
                        assert!(call.plaintext.len() <= PLAINTEXT_BYTES_MAX);
                        assert!(call.aad.is_none_or(|aad| aad.len() <= AAD_BYTES_MAX));
                    }
                    Call::Decrypt(call) => {
                        assert!(call.ciphertext.len() <= PLAINTEXT_BYTES_MAX);
                        assert!(matches!(call.iv.len(), 12 | 16));
                        assert!(call.aad.is_none_or(|aad| aad.len() <= AAD_BYTES_MAX));
                        assert!(
                            call.metadata.is_none_or(
                                |metadata| metadata.len() <= CIPHERTEXT_METADATA_BYTES_MAX
                            )
                        );
                    }
                    Call::Metadata | Call::Health => {}
                }
            }
            Err(rejection) => {
                let message = rejection.error.message();
                assert!(!message.is_empty() && message.len() <= ERROR_MESSAGE_CHARS_MAX);
                assert!(message.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
            }
        }
    }
});
