//! `awsPrincipalArn` taken apart.
//!
//! Strict: what has another form than those that AWS documents is nobody, and nobody is denied. A
//! policy that forbids one account would let pass a principal whose account it cannot see.

use super::arn::{Arn, is_account};

/// What a principal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An IAM role. KMS names a role so also where a session of it called.
    Role,
    /// An IAM user.
    User,
    /// A session of a role.
    AssumedRole,
    /// An AWS service, on its own behalf.
    Service,
    /// The account's root user.
    Root,
    /// A federated user of STS.
    FederatedUser,
}

impl Kind {
    /// As policies spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::User => "user",
            Self::AssumedRole => "assumed-role",
            Self::Service => "service",
            Self::Root => "root",
            Self::FederatedUser => "federated-user",
        }
    }
}

/// Who called KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal<'a> {
    /// 12 digits; empty for a service.
    pub account: &'a str,
    /// What it is.
    pub kind: Kind,
    /// Of the role, the user or the service; `root` for the root user.
    pub name: &'a str,
    /// Of a role or user, with a slash at both ends; `/` where there is none.
    pub path: &'a str,
    /// Of an assumed role.
    pub session: Option<&'a str>,
}

/// How AWS spells a caller that is one of its services, without a name.
const AWS_INTERNAL: &str = "AWS Internal";

impl<'a> Principal<'a> {
    /// Of an `awsPrincipalArn`; `None` where it has none of the known forms.
    pub fn parse(text: &'a str) -> Option<Principal<'a>> {
        if !text.starts_with("arn:") {
            // spec: "either the service principal ending in amazonaws.com, such as
            // ec2.amazonaws.com or 'AWS Internal'".
            let is_service = text == AWS_INTERNAL || is_service(text);
            return is_service.then_some(Principal {
                account: "",
                kind: Kind::Service,
                name: text,
                path: "/",
                session: None,
            });
        }
        let Arn { service, region, account, resource } = Arn::parse(text)?;
        if !region.is_empty() || !is_account(account) {
            return None;
        }
        let of = |kind, path, name, session: Option<&'a str>| {
            let session_fits = session.is_none_or(is_name);
            (is_name(name) && session_fits).then_some(Principal {
                account,
                kind,
                name,
                path,
                session,
            })
        };
        let (what, rest) = resource.split_once('/').unwrap_or((resource, ""));
        match (service, what) {
            ("iam", "root") if resource == "root" => of(Kind::Root, "/", "root", None),
            ("iam", "role") => {
                with_path(resource, "role").and_then(|(p, n)| of(Kind::Role, p, n, None))
            }
            ("iam", "user") => {
                with_path(resource, "user").and_then(|(p, n)| of(Kind::User, p, n, None))
            }
            ("sts", "assumed-role") => {
                let (role, session) = rest.split_once('/')?;
                of(Kind::AssumedRole, "/", role, Some(session))
            }
            ("sts", "federated-user") => of(Kind::FederatedUser, "/", rest, None),
            _ => None,
        }
    }
}

/// Path and name in `role/path/of/it/name`.
fn with_path<'a>(resource: &'a str, kind: &str) -> Option<(&'a str, &'a str)> {
    let rest = resource.strip_prefix(kind)?;
    let (path, name) = rest.split_at(rest.rfind('/')? + 1);
    let parts = path.trim_start_matches('/').split_terminator('/');
    let is_path = path == "/" || (!path.starts_with("//") && parts.clone().all(is_name));
    is_path.then_some((path, name))
}

/// A part of an ARN between slashes.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
}

/// `ec2.amazonaws.com`.
fn is_service(text: &str) -> bool {
    let name = text.strip_suffix(".amazonaws.com").or(text.strip_suffix(".amazonaws.com.cn"));
    let is_part = |part: &str| {
        let chars = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty() && part.bytes().all(chars)
    };
    name.is_some_and(|name| name.split('.').all(is_part))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// account, kind, name, path, session
    fn parts(text: &str) -> Option<(&str, &str, &str, &str, Option<&str>)> {
        let Principal { account, kind, name, path, session } = Principal::parse(text)?;
        Some((account, kind.as_str(), name, path, session))
    }

    #[test]
    fn each_form_of_aws_is_known() {
        let a = "111122223333";
        for (text, expected) in [
            ("arn:aws:iam::111122223333:role/Admin", (a, "role", "Admin", "/", None)),
            ("arn:aws:iam::111122223333:role/team/db/A", (a, "role", "A", "/team/db/", None)),
            ("arn:aws-cn:iam::111122223333:user/x@y.z", (a, "user", "x@y.z", "/", None)),
            ("arn:aws:iam::111122223333:root", (a, "root", "root", "/", None)),
            (
                "arn:aws:sts::111122223333:assumed-role/Admin/i-0123",
                (a, "assumed-role", "Admin", "/", Some("i-0123")),
            ),
            (
                "arn:aws-us-gov:sts::111122223333:federated-user/Bob",
                (a, "federated-user", "Bob", "/", None),
            ),
            ("ec2.amazonaws.com", ("", "service", "ec2.amazonaws.com", "/", None)),
            ("AWS Internal", ("", "service", "AWS Internal", "/", None)),
        ] {
            assert_eq!(parts(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_nobody() {
        for text in [
            "",
            "root",
            "arn",
            "arn:aws:iam::111122223333:role",
            "arn:aws:iam::111122223333:role/",
            "arn:aws:iam::111122223333:role//a",
            "arn:aws:iam::111122223333:role/team//a",
            "arn:aws:iam::111122223333:roles/a",
            "arn:aws:iam::111122223333:root/a",
            "arn:aws:iam::111122223333:group/a",
            "arn:aws:iam::11112222333:role/a",
            "arn:aws:iam::1111222233334:role/a",
            "arn:aws:iam:::role/a",
            "arn:aws:iam:us-east-1:111122223333:role/a",
            "arn:evil:iam::111122223333:role/a",
            "arn:aws:sts::111122223333:assumed-role/a",
            "arn:aws:sts::111122223333:assumed-role/a/",
            "arn:aws:sts::111122223333:assumed-role/a/b/c",
            "arn:aws:sts::111122223333:role/a",
            "arn:aws:iam::111122223333:role/a b",
            "arn:aws:iam::111122223333:role/a\n",
            "arn:aws:iam::١١١١٢٢٢٢٣٣٣٣:role/a",
            "amazonaws.com",
            ".amazonaws.com",
            "evil.example",
            "ec2.amazonaws.com.evil.example",
            "EC2.amazonaws.com",
            "aws internal",
        ] {
            assert_eq!(parts(text), None, "{text:?}");
        }
    }

    const NEARLY_AN_ARN: &str =
        "arn:aws:(iam|sts):[a-z]{0,2}:[0-9]{11,13}:(role|user|root|assumed-role)[a-z/]{0,12}";

    proptest! {
        /// Never a panic; and what is read can be put together again to what was given.
        #[test]
        fn what_is_read_is_all_that_was_given(
            text in prop_oneof![
                ".{0,60}",
                NEARLY_AN_ARN,
            ],
        ) {
            let Some(principal) = Principal::parse(&text) else { return Ok(()) };
            let Principal { account, kind, name, path, session } = principal;
            let again = match kind {
                Kind::Service => name.to_owned(),
                Kind::Root => format!(":{account}:root"),
                Kind::Role | Kind::User => format!(":{account}:{}{path}{name}", kind.as_str()),
                Kind::FederatedUser => format!(":{account}:federated-user/{name}"),
                Kind::AssumedRole => {
                    format!(":{account}:assumed-role/{name}/{}", session.unwrap_or_default())
                }
            };
            prop_assert!(text.ends_with(&again), "{text:?} {again:?}");
        }
    }
}
