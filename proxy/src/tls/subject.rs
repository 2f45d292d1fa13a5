//! Whose a certificate is, as a text that means one thing (RFC 4514).
//!
//! What always holds: whatever a name holds, none of it can be taken for another part of the subject, and the text is printable ASCII, so that a
//! header can carry it. An authority may sign names that its clients have chosen: `CN=a, O=admins` may be one name.

use x509_parser::{
    der_parser::asn1_rs::{Any, Tag, ToDer},
    objects::{oid_registry, oid2abbrev},
    x509::{AttributeTypeAndValue, X509Name},
};

/// Characters that mean something between the parts of a subject.
const SPECIAL: &[u8] = b"\"+,;<=>\\";

/// The subject's parts, the last one first, as the RFC has it.
pub(super) fn text(subject: &X509Name<'_>) -> String {
    let parts = subject.iter_rdn().map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+"));
    let mut parts: Vec<String> = parts.collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let kind = attribute.attr_type();
    let Ok(short) = oid2abbrev(kind, oid_registry()) else { return format!("{kind}={}", as_bytes(attribute.attr_value())) };
    match plain(attribute.attr_value()) {
        Some(value) => format!("{short}={}", escaped(value)),
        None => format!("{short}={}", as_bytes(attribute.attr_value())),
    }
}

/// A value that is text in an encoding that is of one mind.
fn plain<'a>(value: &'a Any<'_>) -> Option<&'a str> {
    let is_text = matches!(value.tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString);
    std::str::from_utf8(value.data).ok().filter(|_| is_text)
}

fn as_bytes(value: &Any<'_>) -> String {
    let der = value.to_der_vec().unwrap_or_default();
    der.iter().fold("#".to_owned(), |text, byte| text + &format!("{byte:02X}"))
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for (at, byte) in value.bytes().enumerate() {
        let is_edge = (byte == b' ' && (at == 0 || at + 1 == value.len())) || (byte == b'#' && at == 0);
        if !(b' '..=b'~').contains(&byte) {
            text.push_str(&format!("\\{byte:02X}"));
            continue;
        }
        if is_edge || SPECIAL.contains(&byte) {
            text.push('\\');
        }
        text.push(char::from(byte));
    }
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    fn subject(parts: Vec<(DnType, DnValue)>) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind, value);
        }
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let (_, parsed) = X509Certificate::from_der(made.der()).unwrap();
        text(parsed.subject())
    }

    fn named(name: &str) -> String {
        subject(vec![(DnType::CommonName, name.into())])
    }

    #[test]
    fn parts_stand_in_the_order_of_the_rfc() {
        let parts = vec![(DnType::CountryName, "DE".into()), (DnType::OrganizationName, "x y".into()), (DnType::CommonName, "a".into())];
        assert_eq!(subject(parts), "CN=a,O=x y,C=DE");
        assert_eq!(subject(Vec::new()), "");
    }

    #[test]
    fn no_name_can_be_taken_for_another_part() {
        for (name, wanted) in [
            ("alice, O=admins", r"CN=alice\, O\=admins"),
            ("a+b;c<d>\"e\\", r#"CN=a\+b\;c\<d\>\"e\\"#),
            ("#a#", r"CN=\#a#"),
            ("  a ", r"CN=\  a\ "),
            ("a\r\nX: y\0", r"CN=a\0D\0AX: y\00"),
            ("Jürgen", r"CN=J\C3\BCrgen"),
            ("", "CN="),
        ] {
            assert_eq!(named(name), wanted, "{name:?}");
        }
    }

    #[test]
    fn what_is_no_plain_text_is_shown_as_bytes() {
        let value = DnValue::BmpString(rcgen::string::BmpString::try_from("a,b").unwrap());
        assert_eq!(subject(vec![(DnType::CommonName, value)]), "CN=#1E060061002C0062");
        let kind = DnType::CustomDnType(vec![1, 2, 3, 4]);
        assert_eq!(subject(vec![(kind, DnValue::Utf8String("x".to_owned()))]), "1.2.3.4=#0C0178");
    }
}
