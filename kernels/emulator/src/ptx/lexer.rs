//! PTX text to tokens: words keep their dots, so that `ld.global.v4.f32` and `%tid.x` are one token each.

use super::Flaw;

/// One token and its line, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Token<'a> {
    pub line: usize,
    pub kind: Kind<'a>,
    /// Byte range in the text, to give an instruction's own spelling back.
    pub at: (usize, usize),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind<'a> {
    /// An identifier, opcode or directive.
    Word(&'a str),
    Integer(i128),
    /// Bits of a double, from `0d...` or a decimal fraction.
    Double(u64),
    /// Bits of a float, from `0f...`.
    Float(u32),
    Text(&'a str),
    Mark(u8),
}

/// Cuts the text; comments vanish.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Flaw> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(text.len() / 4);
    let (mut at, mut line) = (0, 1);
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        let rest = &bytes[at..];
        let kind = match byte {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' | 0 => {
                at += 1;
                continue;
            }
            b'/' if rest.starts_with(b"//") => {
                at += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
                continue;
            }
            b'/' if rest.starts_with(b"/*") => {
                let length = rest
                    .windows(2)
                    .position(|pair| pair == b"*/")
                    .map_or(rest.len(), |end| end + 2);
                line += rest[..length].iter().filter(|&&b| b == b'\n').count();
                at += length;
                continue;
            }
            b'"' => {
                let length = rest[1..].iter().position(|&b| b == b'"' || b == b'\n');
                let end = length.ok_or((line, "a string without its end".to_owned()))? + at + 1;
                at = end + 1;
                Kind::Text(&text[start + 1..end])
            }
            b'0'..=b'9' => {
                at += rest
                    .iter()
                    .position(|b| !number_byte(*b))
                    .unwrap_or(rest.len());
                if text[start..at].ends_with(['e', 'E'])
                    && matches!(bytes.get(at), Some(b'+' | b'-'))
                {
                    let rest = &bytes[at + 1..];
                    at += 1 + rest
                        .iter()
                        .position(|b| !b.is_ascii_digit())
                        .unwrap_or(rest.len());
                }
                number(&text[start..at]).ok_or_else(|| (line, "not a number".to_owned()))?
            }
            _ if word_byte(byte) => {
                at = word_end(bytes, at);
                Kind::Word(&text[start..at])
            }
            b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'<' | b'>' | b',' | b';' | b':' | b'+'
            | b'-' | b'!' | b'|' | b'@' | b'=' | b'*' => {
                at += 1;
                Kind::Mark(byte)
            }
            _ => return Err((line, "a character that PTX does not use".to_owned())),
        };
        out.push(Token {
            line,
            kind,
            at: (start, at),
        });
    }
    Ok(out)
}

fn word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

/// `kind::mxf4` and `L2::128B` are part of an opcode; a lone colon ends a label. Directives may be written together,
/// `.reg.b32`, and are words of their own.
fn word_end(bytes: &[u8], start: usize) -> usize {
    let directive = bytes.get(start) == Some(&b'.');
    let mut at = start + 1;
    loop {
        match bytes.get(at) {
            Some(b'.') if directive => return at,
            Some(&byte) if word_byte(byte) => at += 1,
            Some(b':') if bytes.get(at + 1) == Some(&b':') => at += 2,
            _ => return at,
        }
    }
}

fn number_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'.'
}

fn number<'a>(text: &str) -> Option<Kind<'a>> {
    if let Some(digits) = text.strip_prefix("0f").or(text.strip_prefix("0F")) {
        return u32::from_str_radix(digits, 16).ok().map(Kind::Float);
    }
    if let Some(digits) = text.strip_prefix("0d").or(text.strip_prefix("0D")) {
        return u64::from_str_radix(digits, 16).ok().map(Kind::Double);
    }
    let hexadecimal = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    if hexadecimal.is_none() && text.contains(['.', 'e', 'E']) {
        return text
            .parse::<f64>()
            .ok()
            .map(|value| Kind::Double(value.to_bits()));
    }
    let whole = text.strip_suffix('U').unwrap_or(text);
    let value = if let Some(digits) = hexadecimal {
        u64::from_str_radix(digits.strip_suffix('U').unwrap_or(digits), 16)
    } else if let Some(digits) = whole.strip_prefix("0b").or(whole.strip_prefix("0B")) {
        u64::from_str_radix(digits, 2)
    } else if whole.len() > 1 && whole.starts_with('0') {
        u64::from_str_radix(whole, 8)
    } else {
        whole.parse()
    };
    value.ok().map(|value| Kind::Integer(i128::from(value)))
}
