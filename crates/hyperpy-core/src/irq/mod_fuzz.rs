//! Lines that share gsis, routes, and what a snapshot has of both, against the plainest account of who is high.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};

use super::*;
use crate::accel::{Accelerator, VmConfig};
use crate::scripted::Scripted;
use crate::snapshot::{Saved, StateFault};
use crate::targets::{any_of, changed, near, with};

const GSI: [u32; 4] = [4, 5, 9, 30];

fn route(u: &mut Unstructured<'_>) -> Result<Route> {
    #[allow(clippy::cast_possible_truncation)] // any bits
    let number = |u: &mut Unstructured<'_>, limits: &[u64]| near(u, limits).map(|it| it as u32);
    let gsi = number(u, &[0, 24, 4096])?;
    Ok(match u.int_in_range(0..=2)? {
        0 => Route::IoApic { gsi, pin: number(u, &[0, 24])? },
        1 => Route::Pic { gsi, input: number(u, &[0, 8, 16])? },
        _ => Route::Msi {
            gsi,
            address: near(u, &[0xfee0_0000, 0xfef0_0000, 0])?,
            data: number(u, &[0x10, 0x100, 0xc7ff])?,
        },
    })
}

/// Lines driven, dropped, kept and put back; what KVM is told is what any line of a gsi is.
pub fn lines(data: &[u8]) {
    with(data, |u| {
        let (hub, script) = (Arc::new(LineHub::default()), Scripted::default());
        let vm = script.create_vm(VmConfig { vcpus: 1, irqchip: true }).unwrap();
        let mut lines: Vec<(u32, Arc<dyn Line>)> = Vec::new();
        let mut kept = Vec::new();
        let connect_at = u.int_in_range(0..=10)?;
        for step in 0..40 {
            if step == connect_at {
                hub.connect(&vm).unwrap();
            }
            let at = u.int_in_range(0..=lines.len().max(1) - 1)?;
            match u.int_in_range(0..=9)? {
                0 | 1 => {
                    let gsi = any_of(u, &GSI)?;
                    lines.push((gsi, hub.line(gsi)));
                }
                2 if !lines.is_empty() => drop(lines.remove(at)),
                3 if !lines.is_empty() => {
                    lines[at].1.pulse();
                    assert!(!lines[at].1.is_high());
                }
                4 => kept.push((hub.save(), lines.iter().map(|it| it.1.is_high()).collect::<Vec<_>>(), lines.clone())),
                5 if !kept.is_empty() => {
                    let (state, levels, of) = &kept[u.int_in_range(0..=kept.len() - 1)?];
                    let before: Vec<bool> = lines.iter().map(|it| it.1.is_high()).collect();
                    let loaded = hub.load(state);
                    for (number, (gsi, line)) in lines.iter().enumerate() {
                        let then = of.iter().position(|it| Arc::ptr_eq(&it.1, line)).is_some_and(|it| levels[it]);
                        assert_eq!(line.is_high(), if loaded.is_ok() { then } else { before[number] }, "gsi {gsi}");
                    }
                }
                6 => {
                    // A state of anything is refused, and nothing has changed, or it is a state.
                    let before = Saved::value(&hub.save());
                    let mut value = before.clone();
                    changed(u, &mut value)?;
                    if let Err(fault) = hub.load(&value) {
                        assert!(matches!(fault, StateFault::Misfit(_)));
                        assert_eq!(Saved::value(&hub.save()), before);
                    }
                }
                _ if !lines.is_empty() => {
                    let high = u.arbitrary()?;
                    lines[at].1.set(high);
                    assert_eq!(lines[at].1.is_high(), high);
                }
                _ => {}
            }
            if step >= connect_at {
                let mut told = BTreeMap::new();
                told.extend(script.log().lines);
                // Those that are kept may live on: they are lines too.
                let held = kept.iter().flat_map(|it| &it.2).chain(&lines);
                let mut high: BTreeMap<u32, bool> = GSI.map(|gsi| (gsi, false)).into();
                held.for_each(|(gsi, line)| *high.entry(*gsi).or_default() |= line.is_high());
                high.iter()
                    .for_each(|(gsi, high)| assert_eq!(told.get(gsi).copied().unwrap_or(false), *high, "gsi {gsi}"));
            }
        }
        Ok(())
    });
}

/// Tables of routes: those that are taken have no gsi that leads to one place twice, and every number is one that there is.
pub fn routes(data: &[u8]) {
    with(data, |u| {
        let gsi = route(u)?.gsi();
        let mut table = Vec::new();
        for _ in 0..u.int_in_range(0..=5)? {
            table.push(match route(u)? {
                Route::IoApic { pin, .. } => Route::IoApic { gsi, pin },
                Route::Pic { input, .. } => Route::Pic { gsi, input },
                Route::Msi { address, data, .. } => Route::Msi { gsi, address, data },
            });
        }
        let is_alone = |route: &Route| match *route {
            Route::IoApic { pin, .. } => gsi < 4096 && pin < 24,
            Route::Pic { input, .. } => gsi < 4096 && input < 16,
            Route::Msi { address, data, .. } => {
                let mode = data >> 8 & 7;
                gsi < 4096 && address >> 20 == 0xfee && data & !0xc7ff == 0 && (mode > 1 || data & 0xff >= 16)
            }
        };
        let count = |f: fn(&Route) -> bool| table.iter().filter(|it| f(it)).count();
        let messages = count(|it| matches!(it, Route::Msi { .. }));
        let is_together = (messages == 0 || table.len() == 1)
            && count(|it| matches!(it, Route::IoApic { .. })) <= 1
            && count(|it| matches!(it, Route::Pic { input: 0..8, .. })) <= 1
            && count(|it| matches!(it, Route::Pic { input: 8.., .. })) <= 1;
        assert_eq!(check_routes(&table).is_ok(), table.iter().all(is_alone) && is_together, "{table:x?}");
        Ok(())
    });
}
