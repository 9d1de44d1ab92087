//! The header of the PROXY protocol, version 2, by which a load balancer says whose connection it
//! forwards: section 2.2 of haproxy's `doc/proxy-protocol.txt`. No sockets: bytes in, a header or
//! an error out. Nothing is read beyond the header: its first [`PREFIX_BYTES`] bytes say how long
//! it is.

use core::net::{IpAddr, SocketAddr};
use std::fmt;

use crate::limits::{PROXY_HEADER_BYTES_MAX, VPC_ENDPOINT_ID_CHARS_MAX};

/// Signature, version and command, family, and the length of the rest.
pub const PREFIX_BYTES: usize = 16;

/// How every header of version 2 begins.
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const SIGNATURE_OF_VERSION_1: &[u8; 6] = b"PROXY ";
const TYPE_CRC32C: u8 = 0x03;
/// Of the TLV that AWS has defined; its first byte says what follows.
pub const TYPE_AWS: u8 = 0xEA;
/// The first byte of such a TLV where the id of a VPC endpoint follows.
pub const AWS_VPC_ENDPOINT_ID: u8 = 0x01;

/// What the balancer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Who connected to the balancer. `None`: the connection is the balancer's own (a health
    /// check), or comes over something that is not TCP over IP.
    pub client: Option<SocketAddr>,
    /// The VPC endpoint that it came through.
    pub vpc_endpoint: Option<String>,
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// They begin otherwise.
    Missing,
    /// They are one of version 1, which is text.
    VersionOne,
    /// A version other than 2.
    Version(u8),
    /// Neither LOCAL nor PROXY.
    Command(u8),
    /// An address family or transport that version 2 does not know.
    Family(u8),
    /// So many bytes, more than [`PROXY_HEADER_BYTES_MAX`].
    TooLong(usize),
    /// It ends within an address or a TLV, or bytes follow it.
    Length,
    /// Its CRC32c is not that of its bytes, or stands in it twice.
    Checksum,
    /// AWS's TLV holds something that is not the id of an endpoint, or stands in it twice.
    VpcEndpoint,
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no PROXY protocol header"),
            Self::VersionOne => {
                f.write_str("a PROXY protocol header of version 1; version 2 is required")
            }
            Self::Version(v) => write!(f, "a PROXY protocol header of version {v}, not 2"),
            Self::Command(c) => write!(f, "a PROXY protocol header with unknown command {c}"),
            Self::Family(family) => {
                write!(f, "a PROXY protocol header with unknown address family {family:#04x}")
            }
            Self::TooLong(bytes) => write!(
                f,
                "a PROXY protocol header of {bytes} bytes, more than {PROXY_HEADER_BYTES_MAX}"
            ),
            Self::Length => f.write_str("a PROXY protocol header whose lengths do not fit"),
            Self::Checksum => f.write_str("a PROXY protocol header with a wrong CRC32c"),
            Self::VpcEndpoint => {
                f.write_str("a PROXY protocol header with a malformed VPC endpoint id")
            }
        }
    }
}

impl std::error::Error for HeaderError {}

/// Whether a connection begins with a header, of either version.
pub fn is_header(begin: &[u8]) -> bool {
    begin.starts_with(SIGNATURE) || begin.starts_with(SIGNATURE_OF_VERSION_1)
}

/// Whether these first bytes can still become a header of version 2.
///
/// # Errors
/// Why not, as soon as it is known: who sends something else may send no more.
pub fn look_at_begin(begin: &[u8]) -> Result<(), HeaderError> {
    let is_begin_of = |whole: &[u8]| whole.iter().zip(begin).all(|(a, b)| a == b);
    if is_begin_of(SIGNATURE) {
        return Ok(());
    }
    let one = is_begin_of(SIGNATURE_OF_VERSION_1);
    Err(if one { HeaderError::VersionOne } else { HeaderError::Missing })
}

/// Length of the whole header, bytes, from its first ones.
///
/// # Errors
/// When they are not those of a header.
pub fn header_length(prefix: &[u8; PREFIX_BYTES]) -> Result<usize, HeaderError> {
    look_at_begin(prefix)?;
    match (prefix[12] >> 4, prefix[12] & 0x0F) {
        (2, 0 | 1) => {}
        (2, command) => return Err(HeaderError::Command(command)),
        (version, _) => return Err(HeaderError::Version(version)),
    }
    let length = PREFIX_BYTES + usize::from(u16::from_be_bytes([prefix[14], prefix[15]]));
    if length > PROXY_HEADER_BYTES_MAX {
        return Err(HeaderError::TooLong(length));
    }
    Ok(length)
}

/// Reads a whole header, of the length that [`header_length`] says.
///
/// # Errors
/// When it is none.
pub fn parse(header: &[u8]) -> Result<Header, HeaderError> {
    let (prefix, rest) = header.split_first_chunk().ok_or(HeaderError::Length)?;
    if header_length(prefix)? != header.len() {
        return Err(HeaderError::Length);
    }
    // LOCAL: "The receiver must accept this connection as valid and must use the real connection
    // endpoints and discard the protocol block including the family which is ignored."
    if prefix[12] & 0x0F == 0 {
        return Ok(Header::default());
    }
    let (client, tlvs) = match prefix[13] {
        0x11 => inet::<4>(rest)?,
        0x21 => inet::<16>(rest)?,
        // Unspecified, a datagram, or a Unix socket: "a receiver is not required to implement other
        // ones, provided that it automatically falls back to the UNSPEC mode".
        family if family >> 4 <= 3 && family & 0x0F <= 2 => return Ok(Header::default()),
        // "Other values are unspecified […] and must be rejected as invalid by receivers."
        family => return Err(HeaderError::Family(family)),
    };
    let vpc_endpoint = read_tlvs(header, tlvs)?;
    Ok(Header { client: Some(client), vpc_endpoint })
}

/// Source and destination addresses, source and destination ports; and what follows them.
fn inet<const N: usize>(rest: &[u8]) -> Result<(SocketAddr, &[u8]), HeaderError>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = rest.split_first_chunk::<N>().ok_or(HeaderError::Length)?;
    let (_destination, rest) = rest.split_first_chunk::<N>().ok_or(HeaderError::Length)?;
    let (ports, tlvs) = rest.split_first_chunk::<4>().ok_or(HeaderError::Length)?;
    let port = u16::from_be_bytes([ports[0], ports[1]]);
    Ok((SocketAddr::new(IpAddr::from(*source), port), tlvs))
}

/// Checks the header's CRC32c if there is one, and finds the VPC endpoint.
fn read_tlvs(header: &[u8], mut tlvs: &[u8]) -> Result<Option<String>, HeaderError> {
    let (mut endpoint, mut checked) = (None, false);
    while !tlvs.is_empty() {
        let ([kind, high, low], rest) = tlvs.split_first_chunk().ok_or(HeaderError::Length)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at_checked(length).ok_or(HeaderError::Length)?;
        match (*kind, value.split_first()) {
            (TYPE_CRC32C, _) => {
                let at = header.len() - rest.len() - length;
                let stated = value.try_into().ok().map(u32::from_be_bytes);
                if checked || stated != Some(crc32c_without(header, at..at + length)) {
                    return Err(HeaderError::Checksum);
                }
                checked = true;
            }
            (TYPE_AWS, Some((&AWS_VPC_ENDPOINT_ID, id))) => {
                if endpoint.is_some() {
                    return Err(HeaderError::VpcEndpoint);
                }
                endpoint = Some(vpc_endpoint_id(id)?);
            }
            _ => {}
        }
        tlvs = rest;
    }
    Ok(endpoint)
}

/// The id of a VPC endpoint, if these bytes can be one.
///
/// # Errors
/// When they cannot.
pub fn vpc_endpoint_id(id: &[u8]) -> Result<String, HeaderError> {
    let accepted = (1..=VPC_ENDPOINT_ID_CHARS_MAX).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
    let text = std::str::from_utf8(id).ok().filter(|_| accepted);
    text.map(str::to_owned).ok_or(HeaderError::VpcEndpoint)
}

/// CRC32c (Castagnoli) of the header, the checksum's own bytes taken as zero.
fn crc32c_without(header: &[u8], own: std::ops::Range<usize>) -> u32 {
    let bytes = header.iter().enumerate().map(|(i, b)| if own.contains(&i) { 0 } else { *b });
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 * (crc & 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[0x20 | command, family], &length, rest].concat()
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len()).unwrap().to_be_bytes();
        [&[kind], length.as_slice(), value].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x01, 0xBB];

    fn v4(tlvs: &[u8]) -> Vec<u8> {
        header(1, 0x11, &[V4.as_slice(), tlvs].concat())
    }

    #[test]
    fn clients_over_ipv4_and_ipv6_and_none() {
        let client = |bytes: &[u8]| parse(bytes).unwrap().client;
        assert_eq!(client(&v4(b"")), Some("192.0.2.7:12345".parse().unwrap()));
        let mut six = [0; 36];
        (six[0], six[1], six[15], six[33]) = (0x20, 0x01, 0x09, 0x07);
        assert_eq!(client(&header(1, 0x21, &six)), Some("[2001::9]:7".parse().unwrap()));
        assert_eq!(client(&header(1, 0x00, b"")), None);
        assert_eq!(client(&header(1, 0x31, &[1; 216])), None);
        assert_eq!(client(&header(1, 0x32, &[1; 216])), None);
        for family in [0x41, 0x13, 0xFF] {
            assert_eq!(parse(&header(1, family, &V4)), Err(HeaderError::Family(family)));
        }
        assert_eq!(client(&header(0, 0xFF, b"")), None);
        assert_eq!(client(&header(0, 0x11, b"what is ignored")), None);
    }

    #[test]
    fn the_endpoint_is_found_among_other_tlvs() {
        let endpoint = |value: &[u8]| {
            parse(&v4(&[tlv(0x04, b"xx"), tlv(TYPE_AWS, value)].concat())).map(|h| h.vpc_endpoint)
        };
        assert_eq!(endpoint(b"\x01vpce-08d2"), Ok(Some("vpce-08d2".to_owned())));
        assert_eq!(endpoint(b"\x02other"), Ok(None));
        assert_eq!(endpoint(b""), Ok(None));
        let long = |n| [b"\x01".as_slice(), &vec![b'v'; n]].concat();
        assert!(endpoint(&long(VPC_ENDPOINT_ID_CHARS_MAX)).is_ok());
        let malformed = Err(HeaderError::VpcEndpoint);
        assert_eq!(endpoint(&long(VPC_ENDPOINT_ID_CHARS_MAX + 1)), malformed);
        assert_eq!(endpoint(b"\x01"), malformed);
        assert_eq!(endpoint(b"\x01vpce\n1"), malformed);
        let twice = tlv(TYPE_AWS, b"\x01vpce-1").repeat(2);
        assert_eq!(parse(&v4(&twice)), Err(HeaderError::VpcEndpoint));
    }

    #[test]
    fn a_checksum_is_verified() {
        // The check value that the CRC's definition gives.
        assert_eq!(crc32c_without(b"123456789", 0..0), 0xE306_9283);
        let mut bytes = v4(&tlv(TYPE_CRC32C, &[0; 4]));
        let at = bytes.len() - 4;
        let sum = crc32c_without(&bytes, 0..0).to_be_bytes();
        bytes[at..].copy_from_slice(&sum);
        assert!(parse(&bytes).is_ok());
        for i in PREFIX_BYTES..PREFIX_BYTES + 12 {
            bytes[i] ^= 1;
            assert_eq!(parse(&bytes), Err(HeaderError::Checksum), "byte {i}");
            bytes[i] ^= 1;
        }
        assert_eq!(parse(&v4(&tlv(TYPE_CRC32C, &[0; 3]))), Err(HeaderError::Checksum));
    }

    #[test]
    fn what_is_not_a_whole_header_is_refused() {
        let whole = v4(&tlv(0x04, b"xx"));
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), Err(HeaderError::Length), "{cut} bytes");
        }
        assert_eq!(parse(&[&whole[..], b"\x16"].concat()), Err(HeaderError::Length));
        assert_eq!(parse(&header(1, 0x11, &V4[..11])), Err(HeaderError::Length));
        assert_eq!(parse(&v4(&[0x04, 0, 3, 1])), Err(HeaderError::Length));
        assert_eq!(parse(&header(2, 0x11, &V4)), Err(HeaderError::Command(2)));
        let mut three = whole;
        three[12] = 0x31;
        assert_eq!(parse(&three), Err(HeaderError::Version(3)));
        assert_eq!(header_length(b"PROXY TCP4 1.2.3"), Err(HeaderError::VersionOne));
        for known in 0..=SIGNATURE.len() {
            assert_eq!(look_at_begin(&SIGNATURE[..known]), Ok(()));
            assert_eq!(is_header(&SIGNATURE[..known]), known == SIGNATURE.len());
        }
        assert_eq!(look_at_begin(b"P"), Err(HeaderError::VersionOne));
        assert_eq!(look_at_begin(b"\x16"), Err(HeaderError::Missing));
        assert_eq!(look_at_begin(b"\r\n\r\n\r"), Err(HeaderError::Missing));
        assert!(is_header(b"PROXY TCP4") && !is_header(b"\x16\x03\x01"));
        assert_eq!(
            header_length(b"\x16\x03\x01\x02\0\x01\0\x01\xFC\x03\x03abcde"),
            Err(HeaderError::Missing)
        );
    }

    #[test]
    fn its_length_is_bounded() {
        let padded = |n: usize| v4(&tlv(0x04, &vec![0; n - PREFIX_BYTES - 12 - 3]));
        assert!(parse(&padded(PROXY_HEADER_BYTES_MAX)).is_ok());
        let n = PROXY_HEADER_BYTES_MAX + 1;
        assert_eq!(parse(&padded(n)), Err(HeaderError::TooLong(n)));
    }

    proptest::proptest! {
        /// Any bytes after any command and family: no panic, and no id that could forge a line.
        #[test]
        fn any_bytes_end_in_a_header_or_an_error(
            command in 0..=2_u8,
            family in proptest::sample::select(vec![0x00, 0x11, 0x12, 0x21, 0x31, 0xFF]),
            rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            id in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..30),
        ) {
            let _ = parse(&rest);
            let _ = parse(&header(command, family, &rest));
            if let Ok(read) = parse(&v4(&tlv(TYPE_AWS, &[b"\x01", &id[..]].concat()))) {
                let endpoint = read.vpc_endpoint.unwrap();
                assert_eq!(endpoint.as_bytes(), id);
                assert!(endpoint.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
