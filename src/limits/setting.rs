//! Owns what makes a struct a section of settings: how values are read and printed, and the rules that they obey. Must not
//! know any single setting, nor where settings come from.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use figment::value::Value;
use ipnet::IpNet;

use super::{HOUR, MILLISECOND, MINUTE, Ownership, SECOND};

/// Longer durations are refused, so that adding one to any date stays far from overflow.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// How a setting of one kind is read and printed.
pub(crate) trait Setting: PartialOrd + Sized {
    /// What is expected of a value, for error messages.
    const EXPECTED: &'static str;
    /// Reads what an environment variable or a flag says, or what stands between the quotes in TOML.
    fn from_text(text: &str) -> Option<Self>;
    /// Reads a value of a TOML file. Here: kinds that are strings in TOML.
    fn from_toml(value: &Value) -> Option<Self> {
        Self::from_text(value.as_str()?)
    }
    fn to_toml(&self) -> String;
}

/// What a value must obey beyond its kind.
pub(crate) enum Rule<T> {
    Any,
    AtLeast(T),
    /// What is expected, and whether a value is that.
    That(&'static str, fn(&T) -> bool),
}

impl<T: Setting> Rule<T> {
    /// The value itself, or what the rule expects instead.
    pub(crate) fn check(&self, value: T) -> Result<T, String> {
        match self {
            Rule::AtLeast(least) if value < *least => Err(format!("at least {}", least.to_toml())),
            Rule::That(expected, holds) if !holds(&value) => Err((*expected).to_owned()),
            _ => Ok(value),
        }
    }
}

/// One key of a section, as it was declared.
pub(crate) struct Key<T> {
    pub(crate) section: &'static str,
    pub(crate) name: &'static str,
    pub(crate) doc: &'static [&'static str],
    pub(crate) default: T,
    pub(crate) rule: Rule<T>,
}

/// Whoever walks over settings: the reader and the printer.
pub(crate) trait Visitor {
    fn section(&mut self, name: &'static str, doc: &'static [&'static str]);
    fn key<T: Setting>(&mut self, key: Key<T>, value: &mut T);
}

/// Declares a section: `name: Struct { key: kind = default, rule; … }` with a doc comment on the whole and on each key.
/// Makes the struct, its `Default`, and `visit`, which shows a [`Visitor`] each key apart from the others.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $section:ident: $Struct:ident {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $kind:ty = $default:expr $(, $rule:expr)?;
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $Struct {
            $( $(#[doc = $doc])+ pub $key: $kind, )+
        }

        impl Default for $Struct {
            fn default() -> Self {
                Self { $( $key: $default, )+ }
            }
        }

        impl $Struct {
            pub(crate) fn visit<V: $crate::limits::Visitor>(&mut self, visitor: &mut V) {
                visitor.section(stringify!($section), &[$($about),+]);
                $(
                    visitor.key(
                        $crate::limits::Key {
                            section: stringify!($section),
                            name: stringify!($key),
                            doc: &[$($doc),+],
                            default: $default,
                            rule: $crate::limits::section!(@rule $($rule)?),
                        },
                        &mut self.$key,
                    );
                )+
            }
        }
    };
    (@rule) => { $crate::limits::Rule::Any };
    (@rule $rule:expr) => { $rule };
}
pub(crate) use section;

macro_rules! whole_numbers {
    ($($kind:ty: $expected:literal),+) => {
        $(impl Setting for $kind {
            const EXPECTED: &'static str = concat!("a whole number from 0 to ", $expected);

            fn from_text(text: &str) -> Option<Self> {
                // TOML has no larger numbers, and what is accepted here must be printable there.
                text.trim().parse::<i64>().ok()?.try_into().ok()
            }

            fn from_toml(value: &Value) -> Option<Self> {
                value.deserialize::<i64>().ok()?.try_into().ok()
            }

            fn to_toml(&self) -> String {
                self.to_string()
            }
        })+
    };
}
whole_numbers!(u32: "4294967295", u64: "9223372036854775807", usize: "9223372036854775807");

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_text(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }

    fn from_toml(value: &Value) -> Option<Self> {
        value.to_bool()
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl Setting for Duration {
    const EXPECTED: &'static str = r#"a duration such as "50ms", "30s" or "48h", of at most 100 years"#;

    fn from_text(text: &str) -> Option<Self> {
        humantime::parse_duration(text.trim()).ok().filter(|duration| *duration <= LONGEST)
    }

    /// In the largest unit that says it in one number: "48h" stays "48h", where humantime says "2days".
    fn to_toml(&self) -> String {
        let nanoseconds = self.as_nanos();
        [("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", MILLISECOND)]
            .into_iter()
            .map(|(unit, length)| (unit, length.as_nanos()))
            .find(|(_, length)| nanoseconds >= *length && nanoseconds.is_multiple_of(*length))
            .map_or_else(
                || format!("\"{}\"", humantime::format_duration(*self)),
                |(unit, length)| format!("\"{}{unit}\"", nanoseconds / length),
            )
    }
}

impl Setting for String {
    const EXPECTED: &'static str = "a string";

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn to_toml(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn from_text(text: &str) -> Option<Self> {
        Some(text.into())
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Setting for SocketAddr {
    const EXPECTED: &'static str = r#"an address and port such as "127.0.0.1:9000" or "[::]:9000""#;

    fn from_text(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }

    fn to_toml(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Setting for Vec<IpNet> {
    const EXPECTED: &'static str = r#"a list of networks or addresses such as ["10.0.0.0/8", "::1"]"#;

    /// Either as in TOML or with nothing but commas in between.
    fn from_text(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| network(part.trim_matches('"')))
            .collect()
    }

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(|part| network(part.as_str()?)).collect()
    }

    fn to_toml(&self) -> String {
        let parts: Vec<_> = self.iter().map(|network| format!("\"{network}\"")).collect();
        format!("[{}]", parts.join(", "))
    }
}

impl Setting for Vec<String> {
    const EXPECTED: &'static str = r#"a list of strings such as ["one", "two"]"#;

    /// Either as in TOML or with nothing but commas in between.
    fn from_text(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let parts = text.split(',').map(|part| part.trim().trim_matches('"'));
        Some(parts.filter(|part| !part.is_empty()).map(str::to_owned).collect())
    }

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(|part| part.as_str().map(str::to_owned)).collect()
    }

    fn to_toml(&self) -> String {
        let parts: Vec<_> = self.iter().map(|text| quoted(text)).collect();
        format!("[{}]", parts.join(", "))
    }
}

/// Makes an enum a setting: a word for each of its variants.
macro_rules! words {
    ($Enum:ident, $expected:literal: $($variant:ident = $word:literal),+) => {
        impl $crate::limits::Setting for $Enum {
            const EXPECTED: &'static str = $expected;

            fn from_text(text: &str) -> Option<Self> {
                match text.trim() {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }

            fn to_toml(&self) -> String {
                match self {
                    $(Self::$variant => format!("\"{}\"", $word),)+
                }
            }
        }
    };
}
pub(crate) use words;

words!(Ownership, r#""open" or "strict""#: Open = "open", Strict = "strict");

fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_control() => quoted.push_str(&format!("\\U{:08X}", u32::from(char))),
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}
