//! Until when a certificate is valid, which TLS libraries check but do not tell.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of a certificate's validity; `None` if this is no certificate (RFC 5280, section 4.1).
pub(crate) fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    if let Some((_, after)) = element(rest, VERSION) {
        rest = after;
    }
    // Serial number, algorithm of the signature, issuer.
    for _ in 0..3 {
        (_, _, rest) = any(rest)?;
    }
    let (validity, _) = element(rest, SEQUENCE)?;
    let (_, _, validity) = any(validity)?;
    let (tag, text, _) = any(validity)?;
    time(tag, std::str::from_utf8(text).ok()?)
}

/// Tag and content of the first element, and what follows it.
fn any(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], mut rest) = bytes.split_first_chunk::<2>()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let count = usize::from(first & 0x7f);
        let (digits, after) = rest.split_at_checked(count)?;
        if count > 4 {
            return None;
        }
        length = digits.iter().fold(0, |sum, &digit| sum << 8 | usize::from(digit));
        rest = after;
    }
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn element(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = any(bytes)?;
    (tag == wanted).then_some((content, rest))
}

fn time(tag: u8, text: &str) -> Option<Timestamp> {
    let digits = text.strip_suffix('Z')?;
    let full = match tag {
        // Two digits of a year mean 1950 to 2049.
        UTC_TIME => {
            let century = if digits.get(..2)? < "50" { "20" } else { "19" };
            format!("{century}{digits}")
        }
        GENERALIZED_TIME => digits.to_owned(),
        _ => return None,
    };
    if full.len() != 14 || !full.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| full[from..to].parse::<i16>().ok();
    let small = |from| part(from, from + 2).map(|n| n as i8);
    DateTime::new(
        part(0, 4)?,
        small(4)?,
        small(6)?,
        small(8)?,
        small(10)?,
        small(12)?,
        0,
    )
    .ok()?
    .to_zoned(TimeZone::UTC)
    .ok()
    .map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(year: i32) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["engine".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(1999, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 7, 9);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_of_real_certificates_is_read() {
        // Before and after 2050 it is written differently.
        for year in [2001, 2049, 2050, 2345] {
            let end = not_after(&until(year)).map(|t| t.to_string());
            assert_eq!(end, Some(format!("{year}-07-09T00:00:00Z")));
        }
    }

    #[test]
    fn what_is_cut_off_or_no_certificate_has_no_end() {
        let whole = until(2030);
        for length in 0..whole.len() {
            // Never a panic; the outermost length does not fit.
            assert_eq!(not_after(&whole[..length]), None);
        }
        assert_eq!(not_after(b"-----BEGIN CERTIFICATE-----"), None);
    }
}
