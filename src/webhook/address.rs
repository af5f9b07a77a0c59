//! Where webhooks may go: never to private networks, to this machine, or back to HMD itself. Checked when a subscriber is
//! saved and again before each attempt. Names that resolve to private addresses are beyond this check; on Cloudflare the
//! flag `global_fetch_strictly_public` stands behind it.

use std::net::{Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// Longest address of a subscriber.
pub const MAX_URL_BYTES: usize = 2_000;

/// A URL in the parts that the WHATWG's parser makes of it. The runtime has that parser, and a second one, with the tables of
/// international names, would be a tenth of the Worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebUrl {
    /// All of it, normalised.
    pub href: String,
    /// Before the colon, in lower case.
    pub scheme: String,
    /// The host; IPv6 in brackets. Empty if there is none.
    pub host: String,
    /// The port, if it is not the scheme's own.
    pub port: Option<u16>,
    /// Whether there is a user name or a password.
    pub credentials: bool,
}

/// Takes a URL apart; `None` if it is none.
pub type ParseUrl = fn(&str) -> Option<WebUrl>;

/// [`ParseUrl`] where no runtime has one.
#[cfg(not(target_arch = "wasm32"))]
#[must_use]
pub fn parse_url(text: &str) -> Option<WebUrl> {
    let url = url::Url::parse(text).ok()?;
    Some(WebUrl {
        scheme: url.scheme().to_owned(),
        host: url.host_str().unwrap_or_default().to_owned(),
        port: url.port(),
        credentials: !url.username().is_empty() || url.password().is_some(),
        href: url.into(),
    })
}

/// What an installation allows.
#[derive(Clone, Copy, Debug)]
pub struct AddressRules<'a> {
    /// How URLs are taken apart.
    pub parse: ParseUrl,
    /// Where this installation is reached: webhooks do not go there.
    pub own_url: Option<&'a str>,
    /// This very machine may be reached, over plain HTTP, too.
    pub loopback: bool,
}

/// Why webhooks may not go to an address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Not a URL.
    #[error("is not an absolute URL")]
    NotUrl,
    /// Too long.
    #[error("has more than {MAX_URL_BYTES} bytes")]
    TooLong,
    /// Not HTTPS.
    #[error("must begin with https://")]
    NotHttps,
    /// A user name or password in the URL.
    #[error("must not hold a user name or password; every request is signed instead")]
    Credentials,
    /// HMD's own address.
    #[error("is this installation's own address")]
    Own,
    /// A name that only means something inside a network.
    #[error("{0:?} is a name of a private network")]
    PrivateName(String),
    /// An address that is not public.
    #[error("{0} is not a public address")]
    NotPublic(String),
}

/// Checks that webhooks may go to an address, and answers it parsed: it must be fetched as it was parsed.
///
/// # Errors
/// [`AddressError`]
pub fn check_address(text: &str, rules: AddressRules<'_>) -> Result<WebUrl, AddressError> {
    if text.len() > MAX_URL_BYTES {
        return Err(AddressError::TooLong);
    }
    // The parser of the WHATWG, as fetch has it: 0x7f.1, 127.1, 2130706433 and full-width digits all become 127.0.0.1.
    let url = (rules.parse)(text).ok_or(AddressError::NotUrl)?;
    let host = Host::of(&url).ok_or(AddressError::NotUrl)?;
    if url.credentials {
        return Err(AddressError::Credentials);
    }
    let loopback = host.is_loopback();
    if let Some(own) = rules.own_url.and_then(rules.parse) {
        let same_host = Host::of(&own).is_some_and(|own| own == host);
        // On one machine installations and receivers differ by port only.
        let same_port = port(&own) == port(&url);
        if same_host && (same_port || !loopback) {
            return Err(AddressError::Own);
        }
    }
    if rules.loopback && loopback && matches!(url.scheme.as_str(), "http" | "https") {
        return Ok(url);
    }
    if url.scheme != "https" {
        return Err(AddressError::NotHttps);
    }
    match host {
        Host::Name(name) if is_private_name(&name) => {
            return Err(AddressError::PrivateName(url.host));
        }
        Host::V4(address) if !is_public_v4(address) => {
            return Err(AddressError::NotPublic(address.to_string()));
        }
        Host::V6(address) if !is_public_v6(address) => {
            return Err(AddressError::NotPublic(address.to_string()));
        }
        Host::Name(_) | Host::V4(_) | Host::V6(_) => (),
    }
    Ok(url)
}

/// The host of a URL, as it is compared.
#[derive(Debug, PartialEq, Eq)]
enum Host {
    /// In lower case, without the full stop at its end, which means nothing.
    Name(String),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl Host {
    /// The parser has brought addresses into the one form that the standard library reads. `None` if there is no host.
    fn of(url: &WebUrl) -> Option<Self> {
        let host = url.host.as_str();
        if host.is_empty() {
            return None;
        }
        if let Some(inside) = host.strip_prefix('[') {
            return inside.strip_suffix(']')?.parse().ok().map(Self::V6);
        }
        Some(host.parse().map_or_else(
            |_| Self::Name(host.trim_end_matches('.').to_ascii_lowercase()),
            Self::V4,
        ))
    }

    fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name == "localhost",
            Self::V4(address) => address.is_loopback(),
            Self::V6(address) => address.is_loopback(),
        }
    }
}

fn port(url: &WebUrl) -> Option<u16> {
    url.port.or(match url.scheme.as_str() {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    })
}

/// Names that no public server has: without a full stop, or below a domain that is kept for private networks. In lower case.
fn is_private_name(name: &str) -> bool {
    const PRIVATE: [&str; 12] = [
        "localhost",
        "local",
        "localdomain",
        "internal",
        "intranet",
        "corp",
        "home",
        "lan",
        "private",
        "test",
        "invalid",
        "onion",
    ];
    let Some((_, last)) = name.rsplit_once('.') else {
        return true;
    };
    PRIVATE.contains(&last) || name == "home.arpa" || name.ends_with(".home.arpa")
}

/// The IPv4 blocks that are not public, after IANA's registry: address, bits.
const NOT_PUBLIC_V4: [(Ipv4Addr, u32); 16] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    !NOT_PUBLIC_V4
        .iter()
        .any(|(block, length)| (bits ^ block.to_bits()) >> (32 - length) == 0)
}

/// Blocks of the global unicast range that are not public, or lead to an IPv4 address: address, bits.
const NOT_PUBLIC_V6: [(Ipv6Addr, u32); 4] = [
    // Protocols, among them Teredo, benchmarks and ORCHID.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    // Documentation.
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
    // 6to4.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
];

/// Only global unicast is public. That leaves out loopback, link-local, unique local, multicast, IPv4 in IPv6 of every kind
/// (mapped, compatible, translated), NAT64 and segment routing.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    let global = bits >> 125 == 0b001;
    global
        && !NOT_PUBLIC_V6
            .iter()
            .any(|(block, length)| (bits ^ block.to_bits()) >> (128 - length) == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: AddressRules<'_> = AddressRules {
        parse: parse_url,
        own_url: Some("https://hmd.example.workers.dev"),
        loopback: false,
    };
    const DEV: AddressRules<'_> = AddressRules {
        parse: parse_url,
        own_url: Some("http://127.0.0.1:8787"),
        loopback: true,
    };

    fn refused(text: &str, rules: AddressRules<'_>) -> bool {
        check_address(text, rules).is_err()
    }

    #[test]
    fn public_addresses_are_taken() {
        for text in [
            "https://hooks.slack.com/services/T0/B0/x",
            "https://example.com",
            "https://example.com.:8443/hook?a=b",
            "https://1.1.1.1/",
            "https://172.32.0.1/",
            "https://100.128.0.1/",
            "https://192.0.1.1/",
            "https://198.20.0.1/",
            "https://[2606:4700:4700::1111]/",
            "https://[2001:4860:4860::8888]/",
            "https://bücher.example.org/",
            "https://internal.example.com/",
            "https://localhost.example.com/",
        ] {
            assert!(
                !refused(text, OWN),
                "{text}: {:?}",
                check_address(text, OWN)
            );
        }
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "one table")]
    fn everything_else_is_refused() {
        for text in [
            // Not URLs, not HTTPS.
            "",
            "example.com",
            "/hook",
            "https://",
            "https:///",
            "http://example.com",
            "ftp://example.com",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "data:text/plain,x",
            "https://user@example.com",
            "https://user:word@example.com",
            "https://:word@example.com",
            // Names.
            "https://localhost",
            "https://LOCALHOST",
            "https://localhost.",
            "https://a.localhost",
            "https://intranet",
            "https://db.internal",
            "https://db.internal.",
            "https://metadata.google.internal/",
            "https://printer.local",
            "https://nas.lan",
            "https://x.home.arpa",
            "https://home.arpa",
            "https://ｌｏｃａｌｈｏｓｔ/",
            // HMD itself.
            "https://hmd.example.workers.dev/hooks/shop",
            "https://HMD.example.workers.dev",
            "https://hmd.example.workers.dev.",
            "https://hmd.example.workers.dev:8443/",
            // IPv4 in every block, first and last.
            "https://0.0.0.0",
            "https://0.255.255.255",
            "https://10.0.0.1",
            "https://10.255.255.255",
            "https://100.64.0.1",
            "https://100.127.255.255",
            "https://127.0.0.1",
            "https://127.255.255.254",
            "https://169.254.169.254",
            "https://172.16.0.1",
            "https://172.31.255.255",
            "https://192.0.0.8",
            "https://192.0.2.1",
            "https://192.31.196.1",
            "https://192.88.99.1",
            "https://192.168.0.1",
            "https://192.168.255.255",
            "https://198.18.0.1",
            "https://198.19.255.255",
            "https://198.51.100.1",
            "https://203.0.113.1",
            "https://224.0.0.1",
            "https://239.255.255.255",
            "https://240.0.0.1",
            "https://255.255.255.255",
            // The same in other spellings.
            "https://127.1",
            "https://127.0.1",
            "https://2130706433",
            "https://0x7f000001",
            "https://0x7f.1",
            "https://0177.0.0.1",
            "https://017700000001",
            "https://127.0.0.1.",
            "https://①②⑦.0.0.1",
            "https://127。0。0。1",
            "https://0",
            "https://0x0",
            "https://%31%32%37.0.0.1",
            "https://2852039166/",
            "https://0xa9fea9fe/",
            "https://0xA9.254.0251.254",
            "https:\\\\127.0.0.1\\",
            "https:127.0.0.1",
            "https:/127.0.0.1",
            "https://example.com@127.0.0.1/",
            "\thttps://127.0.0.1",
            // IPv6.
            "https://[::]",
            "https://[::1]",
            "https://[0:0:0:0:0:0:0:1]",
            "https://[::127.0.0.1]",
            "https://[::ffff:127.0.0.1]",
            "https://[::ffff:7f00:1]",
            "https://[::ffff:8.8.8.8]",
            "https://[::ffff:0:127.0.0.1]",
            "https://[64:ff9b::127.0.0.1]",
            "https://[64:ff9b::808:808]",
            "https://[64:ff9b:1::1]",
            "https://[100::1]",
            "https://[2001::1]",
            "https://[2001:0:1::1]",
            "https://[2001:2::1]",
            "https://[2001:10::1]",
            "https://[2001:20::1]",
            "https://[2001:db8::1]",
            "https://[2002:7f00:1::]",
            "https://[2002:808:808::]",
            "https://[3fff::1]",
            "https://[3fff:fff::1]",
            "https://[5f00::1]",
            "https://[fc00::1]",
            "https://[fd12:3456::1]",
            "https://[fe80::1]",
            "https://[febf::1]",
            "https://[fec0::1]",
            "https://[ff02::1]",
            "https://[4000::1]",
        ] {
            assert!(refused(text, OWN), "{text}: {:?}", check_address(text, OWN));
        }
        assert!(refused(
            &format!("https://example.com/{}", "a".repeat(2_000)),
            OWN
        ));
    }

    #[test]
    fn only_dev_reaches_this_machine_and_nobody_hmd_itself() {
        for text in [
            "http://127.0.0.1:9000/hook",
            "https://127.0.0.1:9000/hook",
            "http://localhost:9000",
            "http://[::1]:9000",
            "http://127.1:9000",
        ] {
            assert!(!refused(text, DEV), "{text}");
            assert!(refused(text, OWN), "{text}");
        }
        for text in [
            "http://127.0.0.1:8787/hooks/shop",
            "http://127.1:8787",
            "http://10.0.0.1",
            "https://10.0.0.1",
            "http://example.com",
            "http://[::ffff:127.0.0.1]:9000",
            "ftp://127.0.0.1",
        ] {
            assert!(refused(text, DEV), "{text}");
        }
        assert!(!refused("https://example.com", DEV));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = check_address(&text, OWN);
            let _ = check_address(&format!("https://{text}"), DEV);
        }

        #[test]
        fn of_all_ipv4_addresses_only_public_ones_pass(bits in any::<u32>()) {
            let address = Ipv4Addr::from_bits(bits);
            let known = address.is_private() || address.is_loopback() || address.is_link_local() || address.is_multicast()
                || address.is_broadcast() || address.is_documentation() || address.is_unspecified();
            let taken = !refused(&format!("https://{address}/"), OWN);
            prop_assert!(!(known && taken), "{}", address);
            // However it is written.
            prop_assert_eq!(taken, !refused(&format!("https://{bits}/"), OWN));
            prop_assert_eq!(taken, !refused(&format!("https://0x{bits:x}/"), OWN));
            prop_assert_eq!(taken, !refused(&format!("https://0{bits:o}/"), OWN));
            // And never inside IPv6.
            let inside = [format!("https://[::ffff:{address}]/"), format!("https://[64:ff9b::{address}]/")];
            for text in inside {
                prop_assert!(refused(&text, OWN));
            }
        }
    }
}
