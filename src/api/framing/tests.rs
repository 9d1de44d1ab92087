use super::*;
use crate::limits::{AAD_BYTES_MAX, CIPHERTEXT_METADATA_BYTES_MAX};
use proptest::prelude::*;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex"))
        .collect()
}

#[test]
fn the_specifications_integrity_value() {
    let mut context = integrity_prefix(b"project=nile,department=marketing", b"key_version=1");
    for part in
        ["1ccae5470f39700254779031", "821c642b5b71783367deaf18", "bc1c4dda7707d6812447c5955e99b261"]
    {
        context.update(&hex(part));
    }
    let mut text = Vec::new();
    super::super::base64::encode(context.finish().as_ref(), &mut text);
    assert_eq!(text, b"qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=");
}

#[test]
fn metadata_is_for_ever() {
    assert_eq!(Metadata::new(0, None).as_slice(), [0x01, 0x00, 0x00]);
    assert_eq!(Metadata::new(0x0203, None).as_slice(), [0x01, 0x02, 0x03]);
    let subkey = std::array::from_fn(|n| n as u8);
    let derived = Metadata::new(0x0203, Some(subkey));
    assert_eq!(derived.as_slice(), [2, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(parse(Some(derived.as_slice())), Ok(Format::V2 { key_version: 0x0203, subkey }));
    for key_version in [0, 1, 0x0203, u16::MAX] {
        assert_eq!(
            parse(Some(Metadata::new(key_version, None).as_slice())),
            Ok(Format::V1 { key_version })
        );
    }
    const { assert!(METADATA_BYTES_MAX <= CIPHERTEXT_METADATA_BYTES_MAX) };
}

#[test]
fn other_metadata() {
    assert_eq!(parse(None), Ok(Format::Absent));
    assert_eq!(parse(Some(&[])), Ok(Format::Absent));
    for unknown in [
        &[0x01][..],
        &[0x01, 0x00],
        &[0x01, 0x00, 0x00, 0x00],
        &[0x00, 0x00, 0x00],
        &[0x02, 0x00, 0x00],
        &[0x02; 14],
        &[0x02; 16],
        b"key_version=1",
        &[0; 20],
    ] {
        assert_eq!(
            parse(Some(unknown)).map_err(|e| e.name()),
            Err(ErrorName::InvalidCiphertextException),
            "{unknown:?}"
        );
    }
}

#[test]
fn aad_of_format_1() {
    let metadata = Metadata::new(0, None);
    let metadata = metadata.as_slice();
    assert_eq!(aad_v1(vec![], &[]), Ok(vec![0, 0, 0]));
    assert_eq!(aad_v1(vec![], metadata), Ok(vec![0, 0, 3, 1, 0, 0]));
    assert_eq!(aad_v1(b"ab".to_vec(), metadata), Ok(vec![0, 2, b'a', b'b', 3, 1, 0, 0]));
    let long = aad_v1(vec![9; AAD_BYTES_MAX], metadata).expect("fits");
    assert_eq!((&long[..2], long.len()), (&[0x20, 0x00][..], 2 + 8192 + 1 + 3));
}

#[test]
fn aad_is_framed_where_it_stands() {
    let mut aad = Vec::with_capacity(AAD_BYTES_MAX + AAD_FRAMING_BYTES_MAX);
    aad.resize(AAD_BYTES_MAX, 9);
    let (at, capacity) = (aad.as_ptr(), aad.capacity());
    let framed = aad_v1(aad, &[1; CIPHERTEXT_METADATA_BYTES_MAX]).expect("fits");
    assert_eq!((framed.as_ptr(), framed.capacity(), framed.len()), (at, capacity, capacity));
}

#[test]
fn aad_of_awss_sample() {
    let hash_of_nothing = hex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    let hash_of_abc = hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(aad_aws_sample(None, &[]), Ok(vec![0, 0, 0]));
    assert_eq!(aad_aws_sample(None, b"v0"), Ok(vec![0, 0, 2, b'v', b'0']));
    assert_eq!(aad_aws_sample(Some(b""), &[]), Ok([&[0, 0][..], &hash_of_nothing, &[0]].concat()));
    assert_eq!(
        aad_aws_sample(Some(b"abc"), b"v0"),
        Ok([&[0, 3][..], &hash_of_abc, &[2, b'v', b'0']].concat())
    );
}

#[test]
fn lengths_that_have_no_room_are_refused() {
    let max = usize::from(u16::MAX);
    assert!(aad_v1(vec![0; max], &[0; 255]).is_ok());
    assert!(aad_aws_sample(Some(&vec![0; max]), &[0; 255]).is_ok());
    for refused in [
        aad_v1(vec![0; max + 1], &[]),
        aad_v1(vec![], &[0; 256]),
        aad_aws_sample(Some(&vec![0; max + 1]), &[]),
        aad_aws_sample(None, &[0; 256]),
    ] {
        assert_eq!(refused.map_err(|e| e.name()), Err(ErrorName::UnsupportedOperationException));
    }
}

proptest! {
    /// Short texts over few letters, so that shifting bytes from one part to the other does happen;
    /// the lengths and the format byte are among the letters.
    #[test]
    fn different_context_different_aad(
        a in prop::collection::vec(0u8..4, 0..6), am in prop::collection::vec(0u8..4, 0..4),
        b in prop::collection::vec(0u8..4, 0..6), bm in prop::collection::vec(0u8..4, 0..4),
    ) {
        let same = a == b && am == bm;
        prop_assert_eq!(aad_v1(a, &am) == aad_v1(b, &bm), same);
    }

    /// Injective: both parts can be read back.
    #[test]
    fn framing_can_be_undone(aad in prop::collection::vec(any::<u8>(), 0..400), metadata in prop::collection::vec(any::<u8>(), 0..21)) {
        let framed = aad_v1(aad.clone(), &metadata).expect("fits");
        let (len, rest) = framed.split_at(2);
        let (found_aad, rest) = rest.split_at(usize::from(u16::from_be_bytes([len[0], len[1]])));
        prop_assert_eq!(found_aad, aad.as_slice());
        prop_assert_eq!(usize::from(rest[0]), rest.len() - 1);
        prop_assert_eq!(&rest[1..], metadata.as_slice());
    }

    #[test]
    fn only_our_metadata_is_of_our_formats(
        first in 0u8..4, rest in prop::collection::vec(any::<u8>(), 0..20)
    ) {
        let metadata = [&[first], &rest[..]].concat();
        let ours = match parse(Some(&metadata)) {
            Ok(Format::V1 { key_version }) => Metadata::new(key_version, None),
            Ok(Format::V2 { key_version, subkey }) => Metadata::new(key_version, Some(subkey)),
            Ok(Format::Absent) | Err(_) => return Ok(()),
        };
        prop_assert_eq!(ours.as_slice(), metadata);
    }
}
