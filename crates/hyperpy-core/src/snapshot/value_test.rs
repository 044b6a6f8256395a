//! Plain data: found by name, read as what it is and as nothing else.

use super::*;

#[test]
fn map_asked_for_a_name_it_has_not_gives_none() {
    let map = Value::map([("a", 1_u8.into()), ("b", "text".into())]);
    assert_eq!(map.get("a"), Some(&Value::Int(1)));
    assert_eq!(map.get("c"), None);
    assert_eq!(Value::Nothing.get("a"), None);
}

#[test]
fn number_too_large_for_its_reader_gives_none() {
    let value = Value::from(0x1_00_u16);
    assert_eq!(value.int::<u16>(), Some(0x100));
    assert_eq!(value.int::<u8>(), None);
    assert_eq!(Value::from(-1_i8).int::<u64>(), None);
    assert_eq!(Value::from(true).int::<u8>(), None);
}
