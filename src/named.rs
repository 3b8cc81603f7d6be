//! Enums whose values have names: on the command line, in messages.

/// Defines an enum whose values have names. It gets `ALL`, `name()`, `Display`, `FromStr`, and the first value as its
/// `Default`; `about()` is what the documentation says of a value, for the program's help.
macro_rules! named {
    (
        $(#[$attribute:meta])*
        pub enum $type:ident: $what:literal {
            $($(#[doc = $about:literal])+ $value:ident => $name:literal,)+
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type {
            $($(#[doc = $about])+ $value,)+
        }

        impl $type {
            /// All values.
            pub const ALL: [$type; [$($name),+].len()] = [$($type::$value),+];

            /// The name on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $($type::$value => $name,)+
                }
            }

            /// What is to be said about it.
            pub fn about(self) -> &'static str {
                match self {
                    $($type::$value => concat!($($about),+),)+
                }
            }
        }

        impl Default for $type {
            fn default() -> Self {
                Self::ALL[0]
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::Error;

            fn from_str(name: &str) -> $crate::Result<Self> {
                $type::ALL.into_iter().find(|value| value.name() == name).ok_or_else(|| {
                    let names = $type::ALL.map($type::name).join(", ");
                    $crate::Error::config(format!("no {} is called '{name}'", $what), format!("there are: {names}"))
                })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use crate::Precision;
    use crate::vit::Preset;

    #[test]
    fn a_value_is_found_by_its_name_and_by_no_other() {
        Preset::ALL.into_iter().for_each(|preset| assert_eq!(preset.to_string().parse::<Preset>().unwrap(), preset));
        assert_eq!("bf16".parse::<Precision>().unwrap(), Precision::Bf16);
        let error = "f16".parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("no precision is called 'f16'") && error.contains("f32, tf32, bf16"), "{error}");
    }
}
