//! States by their fields: whole, or refused with a word of what is wrong.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use super::*;

state! {
    /// One of each kind of field.
    struct Several {
        number: u8,
        signed: i64,
        flag: bool,
        maybe: Option<u16>,
        bytes: [u8; 2],
        more: Box<[u8]>,
        list: Vec<u32>,
    }
}

fn several() -> Several {
    let more = [7_u8; 3].as_slice().into();
    Several { number: 200, signed: -5, flag: true, maybe: None, bytes: [1, 2], more, list: vec![3, 1 << 30] }
}

/// What a state made of this says, if it is refused.
fn refused(value: &Value) -> Option<String> {
    <Several as Form>::of(value).err().map(|fault| fault.to_string())
}

#[test]
fn test_state_as_plain_data_and_back_is_the_same() {
    let value = Saved::value(&several());
    assert_eq!(<Several as Form>::of(&value).unwrap(), several());
    assert_eq!(with(&value, |it: &Several| it.clone()).unwrap(), several());
    assert_eq!(with(&several(), |it: &Several| it.number).unwrap(), 200);
}

#[test]
fn test_state_of_another_type_is_read_as_plain_data() {
    assert_eq!(
        check::<Stateless>(&several()).unwrap_err().to_string(),
        "its state does not fit: the device has nothing to be saved, and it is something"
    );
    assert!(check::<Several>(&Stateless).is_err());
    assert!(check::<Stateless>(&Value::Nothing).is_ok());
}

#[test]
fn test_state_with_a_field_changed_missing_or_added_is_refused_by_its_name() {
    let Value::Map(entries) = Saved::value(&several()) else { panic!() };
    for at in 0..entries.len() {
        let name = entries[at].0.clone();
        for wrong in [Value::Float(0.5), Value::Int(1 << 70), Value::Map(Vec::new())] {
            let mut changed = entries.clone();
            changed[at].1 = wrong;
            let told = refused(&Value::Map(changed)).unwrap();
            assert_eq!(told, format!("its state does not fit: {name} cannot have its value"));
        }
        let mut missing = entries.clone();
        missing.remove(at);
        assert_eq!(refused(&Value::Map(missing)).unwrap(), format!("its state does not fit: {name} is missing"));
        let mut twice = entries.clone();
        twice.push(entries[at].clone());
        assert_eq!(refused(&Value::Map(twice)).unwrap(), "its state does not fit: a name is there twice");
    }
    let mut more = entries;
    more.push(("other".into(), Value::Nothing));
    assert_eq!(refused(&Value::Map(more)).unwrap(), "its state does not fit: there is no other");
    assert_eq!(refused(&Value::Nothing).unwrap(), "its state does not fit: it is no map");
}
