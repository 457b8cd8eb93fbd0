//! Owns the shape of a section: one line per key gives its name, type, default and form, and everything else
//! (defaults, reading, printing, the list of keys) follows from it. Called by `sections`; refuses to know any key.

use crate::reader::Reader;

/// A section of the configuration, such as `[limits]`.
pub(crate) trait Section: Sized {
    /// The name in brackets.
    const NAME: &'static str;
    /// Its keys, in the order of the reference.
    const KEYS: &'static [&'static str];
    /// Takes the section's keys; what is absent or refused keeps its default.
    fn read(reader: &mut Reader<'_>) -> Self;
    /// Appends the section as TOML.
    fn write(&self, out: &mut String);
    /// What each key expects, for the test that keeps the reference true.
    #[cfg(test)]
    fn expectations() -> Vec<(&'static str, String)>;
}

/// Appends `key = value`, unless the value is best left out.
pub(crate) fn write_key(out: &mut String, key: &str, value: Option<String>) {
    if let Some(value) = value {
        out.push_str(key);
        out.push_str(" = ");
        out.push_str(&value);
        out.push('\n');
    }
}

/// Declares a section: `field: Type = default, form;` for each key.
macro_rules! section {
    (
        $(#[$doc:meta])* $type:ident [$name:literal]
        $($(#[$field_doc:meta])* $field:ident: $of:ty = $default:expr, $form:expr;)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $type {
            $($(#[$field_doc])* pub $field: $of,)*
        }

        impl Default for $type {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::schema::Section for $type {
            const NAME: &'static str = $name;
            const KEYS: &'static [&'static str] = &[$(stringify!($field)),*];

            fn read(reader: &mut $crate::reader::Reader<'_>) -> Self {
                let spot = reader.section(Self::NAME, Self::KEYS);
                Self { $($field: reader.field(&spot, stringify!($field), &$form).or($default),)* }
            }

            fn write(&self, out: &mut String) {
                out.push_str(concat!("\n[", $name, "]\n"));
                $($crate::schema::write_key(out, stringify!($field), $crate::forms::Form::write(&$form, &self.$field));)*
            }

            #[cfg(test)]
            fn expectations() -> Vec<(&'static str, String)> {
                vec![$((stringify!($field), $crate::forms::Form::<$of>::expected(&$form))),*]
            }
        }
    };
}

/// Declares the settings: `field: Section` for each section, then what comes in lists.
macro_rules! settings {
    ($(#[$doc:meta])* $type:ident { $($(#[$field_doc:meta])* $field:ident: $section:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $type {
            $($(#[$field_doc])* pub $field: $section,)*
            /// Networks with limits of their own.
            pub networks: Vec<$crate::network_limits::NetworkLimits>,
            /// App servers that are told of events, in the order of the text.
            pub backends: Vec<$crate::backends::Backend>,
            /// Where connections may go; at least one.
            pub routes: Vec<$crate::routes::Route>,
        }

        /// Every section with its keys: what the environment may override and what a slip of the pen was meant to be.
        pub(crate) const SECTIONS: &[(&str, &[&str])] =
            &[$((<$section as $crate::schema::Section>::NAME, <$section as $crate::schema::Section>::KEYS)),*];

        impl $type {
            /// Reads every section; the routes, which inherit from them, come after.
            fn read_sections(reader: &mut $crate::reader::Reader<'_>) -> Self {
                Self { $($field: <$section as $crate::schema::Section>::read(reader),)* networks: Vec::new(), backends: Vec::new(), routes: Vec::new() }
            }

            fn write_sections(&self, out: &mut String) {
                $($crate::schema::Section::write(&self.$field, out);)*
            }

            /// What each key of each section expects.
            #[cfg(test)]
            pub(crate) fn expectations() -> Vec<(&'static str, &'static str, String)> {
                let mut all = Vec::new();
                $({
                    let section = <$section as $crate::schema::Section>::NAME;
                    let keys = <$section as $crate::schema::Section>::expectations();
                    all.extend(keys.into_iter().map(|(key, expected)| (section, key, expected)));
                })*
                all
            }
        }
    };
}

pub(crate) use {section, settings};
