//! Patterns: text with `*`, `?` and `${variables}`. Matching is greedy with one place to come back to, so that no
//! pattern and no text cost more than their product (L8).

use std::str::Chars;

use super::key::ConditionKey;

/// A pattern, ready to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`: any one character.
    One,
    /// `*`: any characters, also none.
    Any,
    /// `${key}` or `${key, 'default'}`.
    Variable {
        key: ConditionKey,
        default: Option<String>,
    },
}

/// How a text becomes a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Syntax {
    /// `*` and `?` have their meaning.
    pub(super) wildcards: bool,
    /// `${…}` has its meaning (policy version 2012-10-17).
    pub(super) variables: bool,
}

impl Pattern {
    /// A pattern with wildcards and without variables: this cannot fail.
    pub(super) fn wildcards(text: &str) -> Pattern {
        let mut pattern = Pattern { tokens: Vec::with_capacity(text.len()) };
        text.chars().for_each(|character| pattern.push(character, true));
        pattern
    }

    /// Parses a pattern; an unknown or unfinished variable is an error in words.
    pub(super) fn parse(text: &str, syntax: Syntax) -> Result<Pattern, String> {
        let mut pattern = Pattern { tokens: Vec::with_capacity(text.len()) };
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix("${").filter(|_| syntax.variables) {
                let (variable, after) =
                    after.split_once('}').ok_or_else(|| format!("'{rest}' has no closing brace"))?;
                pattern.tokens.push(variable_token(variable)?);
                rest = after;
            } else {
                pattern.push(character, syntax.wildcards);
                rest = &rest[character.len_utf8()..];
            }
        }
        Ok(pattern)
    }

    fn push(&mut self, character: char, wildcards: bool) {
        match character {
            '*' if wildcards => {
                if self.tokens.last() != Some(&Token::Any) {
                    self.tokens.push(Token::Any);
                }
            }
            '?' if wildcards => self.tokens.push(Token::One),
            literal => self.tokens.push(Token::Char(literal)),
        }
    }

    /// Whether the whole text matches; a pattern with variables never does.
    pub(super) fn matches(&self, text: &str) -> bool {
        glob(&self.tokens, text)
    }

    /// Whether the whole text matches, the variables filled in as plain characters. A variable without a value and
    /// without a default matches nothing.
    pub(super) fn matches_with(&self, text: &str, value_of: &dyn Fn(&ConditionKey) -> Option<String>) -> bool {
        if !self.has_variable() {
            return self.matches(text);
        }
        let mut tokens = Vec::with_capacity(self.tokens.len());
        for token in &self.tokens {
            if let Token::Variable { key, default } = token {
                let Some(value) = value_of(key).or_else(|| default.clone()) else { return false };
                tokens.extend(value.chars().map(Token::Char));
            } else {
                tokens.push(token.clone());
            }
        }
        glob(&tokens, text)
    }

    /// Cuts the pattern at its first `count - 1` literal colons; `None` if there are fewer.
    pub(super) fn split_at_colons(&self, count: usize) -> Option<Vec<Pattern>> {
        let mut parts: Vec<Pattern> = self
            .tokens
            .splitn(count, |token| *token == Token::Char(':'))
            .map(|part| Pattern { tokens: part.to_vec() })
            .collect();
        parts.shrink_to_fit();
        (parts.len() == count).then_some(parts)
    }

    /// Whether it holds a variable.
    pub(super) fn has_variable(&self) -> bool {
        self.tokens.iter().any(|token| matches!(token, Token::Variable { .. }))
    }

    /// Whether it holds a variable of this key.
    pub(super) fn names(&self, key: &ConditionKey) -> bool {
        self.tokens.iter().any(|token| matches!(token, Token::Variable { key: named, .. } if named == key))
    }

    /// Whether it is `*` alone.
    pub(super) fn is_any(&self) -> bool {
        self.tokens == [Token::Any]
    }

    /// The characters in front of the first wildcard or variable, and whether that is all of it.
    pub(super) fn literal_prefix(&self) -> (String, bool) {
        let prefix: String = self.tokens.iter().map_while(literal).collect();
        let is_all = self.tokens.iter().all(|token| literal(token).is_some());
        (prefix, is_all)
    }

    /// The characters that stand for themselves.
    pub(super) fn literals(&self) -> impl Iterator<Item = char> {
        self.tokens.iter().filter_map(literal)
    }
}

fn literal(token: &Token) -> Option<char> {
    match token {
        Token::Char(character) => Some(*character),
        Token::One | Token::Any | Token::Variable { .. } => None,
    }
}

fn variable_token(text: &str) -> Result<Token, String> {
    if let "*" | "?" | "$" = text {
        return Ok(Token::Char(char::from(text.as_bytes()[0])));
    }
    let (name, default) = match text.split_once(',') {
        None => (text, None),
        Some((name, default)) => {
            let default = default.trim().strip_prefix('\'').and_then(|default| default.strip_suffix('\''));
            (name, Some(default.ok_or_else(|| format!("the default in '${{{text}}}' is not quoted"))?.to_owned()))
        }
    };
    let key = ConditionKey::parse(name.trim()).ok_or_else(|| format!("unknown policy variable '${{{name}}}'"))?;
    Ok(Token::Variable { key, default })
}

fn glob(tokens: &[Token], text: &str) -> bool {
    let (mut at, mut rest): (usize, Chars<'_>) = (0, text.chars());
    let mut back: Option<(usize, Chars<'_>)> = None;
    loop {
        let before = rest.clone();
        if tokens.get(at) == Some(&Token::Any) {
            at += 1;
            back = Some((at, before));
            continue;
        }
        let Some(character) = rest.next() else {
            return at == tokens.len();
        };
        let is_match = match tokens.get(at) {
            Some(Token::One) => true,
            Some(Token::Char(own)) => *own == character,
            Some(Token::Any | Token::Variable { .. }) | None => false,
        };
        if is_match {
            at += 1;
        } else if let Some((star, mut from)) = back.take() {
            // The last `*` takes one character more.
            from.next();
            (at, rest) = (star, from.clone());
            back = Some((star, from));
        } else {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A23: `*` crosses slashes, `**` is `*`, `?` is one character of any width; matching covers the whole text.
    #[test]
    fn glob_table() {
        for (pattern, text, is_match) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "a/b", true),
            ("**", "a/b", true),
            ("?", "ä", true),
            ("?", "", false),
            ("??", "a", false),
            ("team/*", "team/a", true),
            ("team/*", "team/", true),
            ("team/*", "team-2/a", false),
            ("team*", "team-2/a", true),
            ("*/a", "x/a", true),
            ("*/a", "x/a/b", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-c-b", false),
            ("*ab", "aab", true),
            ("*a?b", "aaab", true),
            ("A", "a", false),
            ("a?", "a", false),
            ("*?", "", false),
            ("*?*", "x", true),
        ] {
            assert_eq!(Pattern::wildcards(pattern).matches(text), is_match, "{pattern} {text}");
        }
        // L8: no pattern blows up.
        assert!(!Pattern::wildcards(&"*a".repeat(250)).matches(&format!("{}b", "a".repeat(5000))));
    }

    // Variables stand for plain characters: a user named `*` matches only itself.
    #[test]
    fn variables() {
        let syntax = Syntax { wildcards: true, variables: true };
        let value = |name: &'static str| move |_: &ConditionKey| Some(name.to_owned());
        let pattern = Pattern::parse("home/${aws:username}/*", syntax).unwrap();
        assert!(pattern.matches_with("home/ann/x", &value("ann")));
        assert!(!pattern.matches_with("home/bob/x", &value("ann")));
        assert!(!pattern.matches_with("home/bob/x", &value("*")));
        assert!(!pattern.matches_with("home/ann/x", &|_| None));
        let pattern = Pattern::parse("home/${aws:username, 'nobody'}", syntax).unwrap();
        assert!(pattern.matches_with("home/nobody", &|_| None));
        let pattern = Pattern::parse("${*}${?}${$}*", syntax).unwrap();
        assert!(pattern.matches("*?$x") && !pattern.matches("ab$x"));
        for bad in ["${aws:username", "${nosuch}", "${}", "${aws:username, x}", "${aws:nosuch}"] {
            assert!(Pattern::parse(bad, syntax).is_err(), "{bad}");
        }
        let plain = Pattern::parse("${aws:username}", Syntax { wildcards: true, variables: false }).unwrap();
        assert!(plain.matches("${aws:username}"), "version 2008-10-17 has no variables");
    }

    proptest::proptest! {
        // The greedy matcher agrees with plain recursion.
        #[test]
        fn agrees_with_rival(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            fn rival(pattern: &[u8], text: &[u8]) -> bool {
                match (pattern.split_first(), text.split_first()) {
                    (None, None) => true,
                    (Some((b'*', rest)), _) if rival(rest, text) => true,
                    (Some((b'*', _)), Some((_, text))) => rival(pattern, text),
                    (Some((b'?', rest)), Some((_, text))) => rival(rest, text),
                    (Some((own, rest)), Some((other, text))) => own == other && rival(rest, text),
                    (Some(_), None) | (None, Some(_)) => false,
                }
            }
            let expected = rival(pattern.as_bytes(), text.as_bytes());
            proptest::prop_assert_eq!(Pattern::wildcards(&pattern).matches(&text), expected);
        }
    }
}
