//! Numbers as people read them, and text that stays text in HTML and in Markdown.

/// What stands where there is no number.
pub(super) const NONE: &str = "–";

/// `text` as HTML text or as the value of an attribute in quotes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

/// `text` as one line of Markdown, also within a table.
pub(super) fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\\' | '|' | '*' | '`' | '[' | ']' | '#' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            _ => out.push(c),
        }
    }
    out
}

/// `text` as a block of Markdown code, whatever backticks it has.
pub(super) fn block(text: &str) -> String {
    let longest = text
        .split(|c| c != '`')
        .map(str::len)
        .max()
        .unwrap_or_default();
    let fence = "`".repeat((longest + 1).max(3));
    format!("{fence}sh\n{}\n{fence}\n", text.trim_end())
}

/// With so many digits after the point.
pub(super) fn number(value: f64, digits: usize) -> String {
    match value.is_finite() {
        true => format!("{value:.digits$}"),
        false => NONE.to_owned(),
    }
}

/// Seconds with three significant digits or more.
pub(super) fn seconds(value: f64) -> String {
    let digits = match value.abs() {
        v if v < 0.1 => 4,
        v if v < 10.0 => 3,
        v if v < 100.0 => 2,
        _ => 1,
    };
    number(value, digits)
}

/// Bytes in decimal units, as file managers count.
pub(super) fn bytes(value: f64) -> String {
    let (unit, name) = match value {
        v if v >= 1e9 => (1e9, "GB"),
        v if v >= 1e6 => (1e6, "MB"),
        _ => (1e3, "kB"),
    };
    match value.is_finite() {
        true => format!("{:.1} {name}", value / unit),
        false => NONE.to_owned(),
    }
}

/// A share as a percentage.
pub(super) fn percent(value: f64) -> String {
    match value.is_finite() {
        true => format!("{:.1} %", value * 100.0),
        false => NONE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_text() {
        assert_eq!(escape("<b a='\"'>&"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;");
        assert_eq!(line("a|b\n<i>*"), "a\\|b &lt;i&gt;\\*");
        assert_eq!(block("a ``` b\n"), "````sh\na ``` b\n````\n");
    }

    #[test]
    fn numbers_have_the_digits_that_matter() {
        assert_eq!(seconds(0.03712), "0.0371");
        assert_eq!(seconds(123.456), "123.5");
        assert_eq!(bytes(28.4e9), "28.4 GB");
        assert_eq!(bytes(999.0), "1.0 kB");
        assert_eq!(percent(0.875), "87.5 %");
        assert_eq!(number(f64::NAN, 2), NONE);
    }
}
