//! `field=value` with blanks between: the form of what the supervisor tells the processes it starts, each in one
//! environment variable. Takes it apart, and names the field that is wrong; what the values mean is `handover`'s and `tap`'s.

use std::str::FromStr;

/// What may stand in a variable.
pub struct Form {
    pub variable: &'static str,
    pub names: &'static [&'static str],
    pub bytes_max: usize,
}

/// The fields' texts, each at most once.
pub struct Fields<'a> {
    form: &'static Form,
    values: Vec<Option<&'a str>>,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{variable}: {fault}")]
pub struct FieldsError {
    pub variable: &'static str,
    pub fault: Fault,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    #[error("it is longer than {0} bytes: it was not written by `spillway serve`")]
    TooLong(usize),
    #[error("`{0}` is not of the form field=value")]
    NoField(String),
    #[error("unknown field `{0}`: the supervisor and what it starts are of different builds")]
    Unknown(String),
    #[error("field `{0}` stands there twice")]
    Twice(&'static str),
    #[error("field `{0}` is missing: processes are started by `spillway serve`, not by hand")]
    Missing(&'static str),
    #[error("field `{field}` has the value `{value}`, {wanted} was expected")]
    Value { field: &'static str, value: String, wanted: &'static str },
}

impl Form {
    pub fn split<'a>(&'static self, text: &'a str) -> Result<Fields<'a>, FieldsError> {
        let wrong = |fault| Err(FieldsError { variable: self.variable, fault });
        if text.len() > self.bytes_max {
            return wrong(Fault::TooLong(self.bytes_max));
        }
        let mut values = vec![None; self.names.len()];
        for part in text.split_ascii_whitespace() {
            let Some((name, value)) = part.split_once('=') else { return wrong(Fault::NoField(part.into())) };
            let Some((known, place)) = self.names.iter().zip(&mut values).find(|(known, _)| **known == name) else {
                return wrong(Fault::Unknown(name.into()));
            };
            if place.replace(value).is_some() {
                return wrong(Fault::Twice(known));
            }
        }
        Ok(Fields { form: self, values })
    }
}

impl<'a> Fields<'a> {
    pub fn optional(&self, field: &'static str) -> Option<&'a str> {
        self.form.names.iter().zip(&self.values).find(|(known, _)| **known == field).and_then(|(_, value)| *value)
    }

    pub fn text(&self, field: &'static str) -> Result<&'a str, FieldsError> {
        let missing = FieldsError { variable: self.form.variable, fault: Fault::Missing(field) };
        self.optional(field).ok_or(missing)
    }

    /// From 0 on, as large as its type.
    pub fn number<T: FromStr + PartialOrd + Default>(&self, field: &'static str) -> Result<T, FieldsError> {
        self.number_in(field, self.text(field)?)
    }

    pub fn optional_number<T: FromStr + PartialOrd + Default>(&self, field: &'static str) -> Result<Option<T>, FieldsError> {
        self.optional(field).map(|value| self.number_in(field, value)).transpose()
    }

    /// A number that is a part of a field's value.
    pub fn number_in<T: FromStr + PartialOrd + Default>(&self, field: &'static str, value: &str) -> Result<T, FieldsError> {
        let number = value.parse().ok().filter(|number| *number >= T::default());
        number.ok_or_else(|| self.wrong(field, value, "a number from 0 on"))
    }

    pub fn wrong(&self, field: &'static str, value: &str, wanted: &'static str) -> FieldsError {
        FieldsError { variable: self.form.variable, fault: Fault::Value { field, value: value.into(), wanted } }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: whatever stands in the variable is taken apart or refused by name. Method: a form of two fields.

    use super::*;

    static FORM: Form = Form { variable: "SPILLWAY_TEST", names: &["v", "size"], bytes_max: 64 };

    fn split(text: &str) -> Result<Fields<'_>, FieldsError> {
        FORM.split(text)
    }

    #[test]
    fn fields_are_found_in_any_order() {
        let fields = split(" size=7\tv=1 ").unwrap();
        assert_eq!((fields.number("v"), fields.number::<u64>("size")), (Ok(1), Ok(7)));
        let fields = split("v=").unwrap();
        assert_eq!((fields.text("v"), fields.optional("size"), fields.optional_number::<i32>("size")), (Ok(""), None, Ok(None)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let of = |error: FieldsError| error.to_string();
        assert!(of(split(&"v=1 ".repeat(17)).err().unwrap()).contains("longer than 64 bytes"));
        assert!(split(&" ".repeat(64)).is_ok());
        for (text, expected) in [
            ("v", "`v` is not of the form"),
            ("v=1 colour=blue", "unknown field `colour`"),
            ("=1", "unknown field ``"),
            ("v=1 v=1", "field `v` stands there twice"),
        ] {
            let error = of(split(text).err().unwrap());
            assert!(error.starts_with("SPILLWAY_TEST: ") && error.contains(expected), "{text}: {error}");
        }
        let number = |text| split(text).unwrap().number::<i32>("size").err().map(of).unwrap_or_default();
        assert!(number("v=1").contains("field `size` is missing"));
        for text in ["size=", "size=-1", "size=x", "size=2147483648"] {
            assert!(number(text).contains("field `size` has the value"), "{text}");
        }
        assert_eq!(split("size=18446744073709551615").unwrap().number("size"), Ok(u64::MAX));
    }
}
