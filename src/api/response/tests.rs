use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn body(write: impl FnOnce(&mut Vec<u8>)) -> Value {
    let mut out = b"head".to_vec();
    write(&mut out);
    serde_json::from_slice(out.strip_prefix(b"head").expect("appends")).expect("JSON")
}

fn hex<const N: usize>(text: &str) -> [u8; N] {
    std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex"))
}

/// The specification's response example.
#[test]
fn encrypt_with_every_field() {
    let integrity: [u8; 32] =
        hex("a8703f2260bd8791ec2d15ea0b23e65a0631eedcf2a13a65cc82db3f47cf5ec7");
    let answer = Encrypted {
        ciphertext: &hex::<12>("821c642b5b71783367deaf18"),
        iv: &hex::<12>("1ccae5470f39700254779031"),
        tag: &hex("bc1c4dda7707d6812447c5955e99b261"),
        metadata: Some(b"key_version=1"),
        integrity: Some(&integrity),
    };
    assert_eq!(
        body(|out| encrypt(&answer, out)),
        json!({
            "authenticationTag": "vBxN2ncH1oEkR8WVXpmyYQ==",
            "ciphertext": "ghxkK1txeDNn3q8Y",
            "ciphertextDataIntegrityValue": "qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=",
            "ciphertextMetadata": "a2V5X3ZlcnNpb249MQ==",
            "initializationVector": "HMrlRw85cAJUd5Ax"
        })
    );
}

#[test]
fn encrypt_leaves_out_what_is_absent() {
    let answer =
        Encrypted { ciphertext: b"", iv: &[0; 16], tag: &[0; 16], metadata: None, integrity: None };
    let zeros = "AAAAAAAAAAAAAAAAAAAAAA==";
    assert_eq!(
        body(|out| encrypt(&answer, out)),
        json!({"ciphertext": "", "initializationVector": zeros, "authenticationTag": zeros})
    );
}

#[test]
fn decrypt_writes_plaintext_alone() {
    assert_eq!(body(|out| decrypt(b"Hello World!", out)), json!({"plaintext": "SGVsbG8gV29ybGQh"}));
    assert_eq!(body(|out| decrypt(b"", out)), json!({"plaintext": ""}));
}

#[test]
fn decrypt_makes_exactly_the_room_it_needs() {
    for len in [0, 1, 2, 3, 32, 4300] {
        let mut out = Vec::new();
        decrypt(&vec![0x5a; len], &mut out);
        assert_eq!(out.len(), DECRYPT_BODY_OVERHEAD_BYTES + base64::text_len(len));
        // A buffer that had grown on the way would have grown to more.
        assert_eq!(out.capacity(), out.len());
    }
}

#[test]
fn metadata_tells_spec_usage_and_status() {
    let usage = [KeyUsage::Decrypt, KeyUsage::Encrypt].into_iter().collect();
    let key = KeyDescription { spec: KeySpec::AES_256, usage, enabled: true };
    assert_eq!(
        body(|out| metadata(&key, out)),
        json!({"keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "ENABLED"})
    );
    let (spec, usage) = (KeySpec::GenericSecret(Some(256)), KeyUsages::default());
    assert_eq!(
        body(|out| metadata(&KeyDescription { spec, usage, enabled: false }, out)),
        json!({"keySpec": "GENERIC_SECRET_256", "keyUsage": [], "keyStatus": "DISABLED"})
    );
    let usage = KeyUsage::ALL.into_iter().collect();
    assert_eq!(
        body(|out| metadata(&KeyDescription { usage, ..key }, out))["keyUsage"],
        json!(["ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE"])
    );
}

#[test]
fn specs_are_spelled() {
    for (spec, spelled) in [
        (KeySpec::Aes(Some(128)), "AES_128"),
        (KeySpec::Aes(None), "AES"),
        (KeySpec::GenericSecret(Some(160)), "GENERIC_SECRET_160"),
        (KeySpec::ChaCha20(Some(256)), "CHACHA20_256"),
        (KeySpec::Des, "DES_56"),
        (KeySpec::Des2, "DES2_112"),
        (KeySpec::Des3, "DES3_168"),
        (KeySpec::Other(0x8000_0005), "CKK_0x80000005"),
        (KeySpec::Unknown, "UNKNOWN"),
    ] {
        assert_eq!(key_spec(spec), spelled);
    }
}

fn key_manager(id: &str, health: key_manager::Health) -> EkmFleetDetail {
    let health_status = health_status(health);
    EkmFleetDetail { id: id.to_owned(), model: "Luna 5.0".to_owned(), health_status }
}

fn health_of(fleet: &[EkmFleetDetail]) -> Value {
    let answer = Health {
        xks_proxy_fleet_size: NonZeroU32::MIN,
        xks_proxy_vendor: "a \"vendor\"",
        xks_proxy_model: "xksd\n1",
        ekm_vendor: "Thales\u{1}",
        ekm_fleet_details: fleet,
    };
    body(|out| health(&answer, out))
}

#[test]
fn health_tells_the_fleet() {
    let fleet = [
        key_manager("hsm-1", key_manager::Health::Active),
        key_manager("hsm-2", key_manager::Health::Degraded),
        key_manager("hsm-3", key_manager::Health::Unavailable),
    ];
    assert_eq!(
        health_of(&fleet),
        json!({
            "xksProxyFleetSize": 1,
            "xksProxyVendor": "a \"vendor\"",
            "xksProxyModel": "xksd\n1",
            "ekmVendor": "Thales\u{1}",
            "ekmFleetDetails": [
                {"id": "hsm-1", "model": "Luna 5.0", "healthStatus": "ACTIVE"},
                {"id": "hsm-2", "model": "Luna 5.0", "healthStatus": "DEGRADED"},
                {"id": "hsm-3", "model": "Luna 5.0", "healthStatus": "UNAVAILABLE"},
            ]
        })
    );
}

#[test]
fn health_tells_ten_key_managers_at_most() {
    for (given, told) in [(1, 1), (EKM_FLEET_MAX, 10), (EKM_FLEET_MAX + 1, 10)] {
        let body = health_of(&vec![key_manager("hsm", key_manager::Health::Active); given]);
        assert_eq!(body["ekmFleetDetails"].as_array().map(Vec::len), Some(told));
    }
}

proptest! {
    /// Growing while plaintext is in the buffer would leave a copy behind: once the room is there,
    /// the buffer stays put.
    #[test]
    fn decrypt_never_moves_its_buffer(plaintext in prop::collection::vec(any::<u8>(), 0..600), before in 0usize..100) {
        let mut out = vec![0; before];
        out.reserve_exact(DECRYPT_BODY_OVERHEAD_BYTES + base64::text_len(plaintext.len()));
        let (address, capacity) = (out.as_ptr(), out.capacity());
        decrypt(&plaintext, &mut out);
        prop_assert_eq!((out.as_ptr(), out.capacity()), (address, capacity));
    }
}
