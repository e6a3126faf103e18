//! Enums whose numbers are stored: written out at each variant, free to stand in any order.
//!
//! `bincode`'s derive numbers variants by position and ignores `= 7`, so a variant inserted in the middle would
//! silently change every record. Here the number is what the source says: a `u16`, then the fields in order.

/// Declares an enum with unit and struct variants, each with its stored number, and encodes it by that number.
///
/// Two variants of one number do not compile without a warning; an unknown number does not decode. Fields are never
/// added to a stored variant: a changed shape is a new variant.
macro_rules! stored_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $(
                $(#[$variant_meta:meta])*
                $variant:ident $({ $( $(#[$field_meta:meta])* $field:ident: $kind:ty ),* $(,)? })? = $code:literal
            ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        pub enum $name {
            $(
                $(#[$variant_meta])*
                $variant $({ $( $(#[$field_meta])* $field: $kind ),* })?
            ),*
        }

        impl bincode::Encode for $name {
            fn encode<E: bincode::enc::Encoder>(&self, encoder: &mut E) -> Result<(), bincode::error::EncodeError> {
                match self {
                    $(
                        $name::$variant $({ $($field),* })? => {
                            let code: u16 = $code;
                            code.encode(encoder)?;
                            $($($field.encode(encoder)?;)*)?
                        }
                    )*
                }
                Ok(())
            }
        }

        impl<Context> bincode::Decode<Context> for $name {
            fn decode<D: bincode::de::Decoder<Context = Context>>(
                decoder: &mut D,
            ) -> Result<$name, bincode::error::DecodeError> {
                let code = <u16 as bincode::Decode<Context>>::decode(decoder)?;
                match code {
                    $(
                        $code => Ok($name::$variant $({
                            $($field: <$kind as bincode::Decode<Context>>::decode(decoder)?),*
                        })?),
                    )*
                    _ => Err(bincode::error::DecodeError::OtherString(format!(
                        concat!("unknown ", stringify!($name), " {}"),
                        code
                    ))),
                }
            }
        }

        bincode::impl_borrow_decode!($name);
    };
}

pub(crate) use stored_enum;
