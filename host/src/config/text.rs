//! The text of a configuration file: JSON in the form that SPDK reads.

use std::borrow::Cow;

/// Returns the JSON of a file without the byte order mark. Blanks replace `/* */` and `//`
/// comments, so that lines and columns in errors stay correct.
///
/// # Errors
/// The file is not UTF-8, or a comment does not end.
pub(super) fn json_of(file: &[u8]) -> Result<Cow<'_, str>, String> {
    let text = std::str::from_utf8(file).map_err(|error| error.to_string())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.contains("/*") && !text.contains("//") {
        return Ok(Cow::Borrowed(text));
    }
    without_comments(text).map(Cow::Owned)
}

fn without_comments(text: &str) -> Result<String, String> {
    let mut json = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (len, is_comment) = match rest.as_bytes() {
            [b'"', ..] => (string_len(rest), false),
            [b'/', b'*', ..] => {
                let end = rest.find("*/").ok_or("a comment /* does not end")?;
                (end + "*/".len(), true)
            }
            [b'/', b'/', ..] => (rest.find('\n').unwrap_or(rest.len()), true),
            _ => (first.len_utf8(), false),
        };
        let (token, behind) = rest.split_at(len);
        if is_comment {
            json.extend(token.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            json.push_str(token);
        }
        rest = behind;
    }
    Ok(json)
}

/// The length in bytes of the string at the start of `text`, with its quotes.
fn string_len(text: &str) -> usize {
    let mut is_escaped = false;
    for (place, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return place + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_a_byte_order_mark_are_blanks_but_strings_stay() {
        for (file, json) in [
            ("\u{feff}{}", "{}"),
            ("/* a */{ /* \n */ }", "       {    \n    }"),
            ("{} // a \"b\n", "{}        \n"),
            (r#"{"a": "// /* \\" */"}"#, r#"{"a": "// /* \\" */"}"#),
            ("{\"\u{e4}\": 1} //\u{e4}", "{\"\u{e4}\": 1}    "),
        ] {
            assert_eq!(json_of(file.as_bytes()).unwrap(), json, "{file}");
        }
        assert!(json_of(b"{} /* a").unwrap_err().contains("does not end"));
        assert!(json_of(b"\xff").is_err());
    }
}
