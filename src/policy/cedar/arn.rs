//! Names of resources in AWS (ARN).

/// An ARN taken apart; its partition is one of AWS's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arn<'a> {
    pub(super) service: &'a str,
    pub(super) region: &'a str,
    pub(super) account: &'a str,
    pub(super) resource: &'a str,
}

impl<'a> Arn<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Arn<'a>> {
        let mut parts = text.splitn(6, ':');
        let (arn, partition) = (parts.next()?, parts.next()?);
        if arn != "arn" || !(partition == "aws" || partition.starts_with("aws-")) {
            return None;
        }
        let (service, region, account) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Arn { service, region, account, resource: parts.next()? })
    }
}

/// Account and region of a `kmsKeyArn`; `None` where it is none.
pub(super) fn kms_key(text: &str) -> Option<(&str, &str)> {
    let Arn { service, region, account, resource } = Arn::parse(text)?;
    let is_region = !region.is_empty()
        && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let is_key = resource.strip_prefix("key/").is_some_and(|id| !id.is_empty());
    (service == "kms" && is_region && is_key && is_account(account)).then_some((account, region))
}

pub(super) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_and_region_of_a_kms_key() {
        let key = "arn:aws:kms:eu-west-3:111122223333:key/mrk-0123";
        assert_eq!(kms_key(key), Some(("111122223333", "eu-west-3")));
        for text in [
            "",
            "arn:aws:kms:eu-west-3:111122223333:key/",
            "arn:aws:kms:eu-west-3:111122223333:alias/a",
            "arn:aws:kms::111122223333:key/a",
            "arn:aws:kms:eu-west-3:1111:key/a",
            "arn:aws:s3:eu-west-3:111122223333:key/a",
            "arn:aws:kms:eu-west-3:111122223333",
            "brn:aws:kms:eu-west-3:111122223333:key/a",
        ] {
            assert_eq!(kms_key(text), None, "{text:?}");
        }
    }
}
