//! The identifier of the generation: who is given a new one, and that a restore knows what its machine was told.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::arch::x86_64::layout::GENERATION_START;
use crate::testing::Rig;

fn id(rig: &Rig) -> u128 {
    let mut bytes = [0; 16];
    rig.machine.memory.read(GENERATION_START, &mut bytes).unwrap();
    u128::from_le_bytes(bytes)
}

#[test]
fn test_generation_of_a_machine_without_an_operating_system_is_not_written() {
    let rig = Rig::new(vec![vec![]]);
    rig.machine.renew_generation(7).unwrap();
    assert_eq!(id(&rig), 0);
}

#[test]
fn test_generation_is_renewed_where_a_restore_brought_the_operating_system_back() {
    let rig = Rig::new(vec![vec![]]);
    rig.machine.line(GENERATION_GSI).unwrap();
    let bare = rig.machine.snapshot(&rig).unwrap();
    rig.machine.tells_generation();
    let told = rig.machine.snapshot(&rig).unwrap();
    rig.machine.reset(&rig, || Ok(())).unwrap();
    rig.machine.renew_generation(7).unwrap();
    assert_eq!(id(&rig), 0);
    rig.machine.restore(&told, &[], &rig).unwrap();
    rig.machine.renew_generation(8).unwrap();
    assert_eq!(id(&rig), 8);
    rig.machine.restore(&bare, &[], &rig).unwrap();
    rig.machine.renew_generation(9).unwrap();
    assert_eq!(id(&rig), 0);
}
