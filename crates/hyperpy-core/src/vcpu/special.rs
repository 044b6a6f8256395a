//! Exits that are no access to a bus: model-specific registers, hypercalls, and those that only end a run.
//!
//! An RDMSR, a WRMSR and a hypercall are pending as an access is: KVM finishes the instruction at the next entry. Until an
//! answer comes, an RDMSR is a general-protection fault, a WRMSR is dropped, and a hypercall is one that nobody knows.

use super::{CURRENT, Current, Open, Serving, Vcpu, bump, next_ticket};
use crate::accel::AccelExit;
use crate::bus::{Action, Place, Rung};
use crate::exit::Exit;
use crate::machine::Machine;
use crate::msr::MsrHandler;

/// Bytes of a model-specific register, and of a hypercall's result.
const WIDTH: u8 = 8;
/// -KVM_ENOSYS: the result of a hypercall that nobody knows (kernel: include/uapi/linux/kvm_para.h).
const UNKNOWN_HYPERCALL: u64 = 1000_u64.wrapping_neg();

impl Vcpu {
    /// Serves what can be served; the exit that `run()` returns, if it is not.
    #[cold]
    pub(crate) fn exit_for_caller(&mut self, machine: &Machine, exit: &AccelExit) -> Option<Exit> {
        let vcpu = self.id;
        Some(match *exit {
            AccelExit::Pio { .. }
            | AccelExit::Mmio { .. }
            | AccelExit::Halt
            | AccelExit::Nothing
            | AccelExit::Posted => {
                return None;
            }
            AccelExit::Hypercall { number, arguments } => {
                self.accel.set_io_value(0, UNKNOWN_HYPERCALL);
                Exit::Hypercall { vcpu, number, arguments, ticket: self.wait_for_answer(true, false) }
            }
            AccelExit::Msr { index, is_write, value } => return self.serve_msr(machine, index, is_write, value),
            AccelExit::Debug { pc, dr6 } => Exit::Debug { vcpu, pc, dr6: self.debug.without_strangers(dr6) },
            AccelExit::Shutdown => Exit::Shutdown { vcpu },
            AccelExit::SystemEvent(kind) => Exit::SystemEvent { vcpu, kind, data: self.accel.event_data() },
            AccelExit::FailEntry { reason } => Exit::FailEntry { vcpu, reason },
            AccelExit::InternalError { suberror, bytes, len } => {
                let bytes = bytes.get(..usize::from(len)).unwrap_or_default().to_vec();
                let bits = self.accel.sregs().map_or(64, |sregs| sregs.code_bits());
                Exit::InternalError { vcpu, suberror, reason: 0, bytes, bits }
            }
            AccelExit::Unknown { reason } => {
                Exit::InternalError { vcpu, suberror: 0, reason, bytes: Vec::new(), bits: 64 }
            }
        })
    }

    /// Makes the exit pending; its ticket. `answerable` leaves it open for the caller of `run()`.
    fn wait_for_answer(&mut self, answerable: bool, is_msr: bool) -> u64 {
        self.unfinished = true;
        let ticket = next_ticket();
        self.open = answerable.then_some(Open { ticket, index: 0, size: WIDTH, is_msr });
        ticket
    }

    fn serve_msr(&mut self, machine: &Machine, index: u32, is_write: bool, value: u64) -> Option<Exit> {
        self.accel.set_msr_fault(!is_write);
        let Some(handler) = machine.traps.handler(index) else {
            if let Some(hits) = self.shared.counters.hits.get(Rung::Unclaimed as usize) {
                bump(hits, 1);
            }
            let ticket = self.wait_for_answer(!is_write, true);
            return Some(Exit::Msr { vcpu: self.id, index, is_write, value, ticket });
        };
        self.unfinished = true;
        if let Some(hits) = self.shared.counters.hits.get(Rung::Method as usize) {
            bump(hits, 1);
        }
        let current = Current {
            machine: machine.id,
            vcpu: self.id,
            rip: self.accel.rip(),
            space: None,
            address: index.into(),
            size: WIDTH,
            is_write,
        };
        let before = CURRENT.replace(Some(current));
        self.serving = Serving::Msr;
        self.shared.presence.enter();
        self.shared.presence.go_to(Place::ELSEWHERE);
        let action = self.ask(&*handler, index, is_write, value);
        self.shared.presence.back();
        self.shared.presence.leave();
        CURRENT.set(before);
        if action != Action::Continue {
            machine.control.device_asks(self.id, action);
        }
        None
    }

    fn ask(&mut self, handler: &dyn MsrHandler, index: u32, is_write: bool, value: u64) -> Action {
        let vcpu = self.id;
        let answer = if is_write {
            handler.write(index, vcpu, value)
        } else {
            handler.read(index, vcpu).map(|value| {
                self.accel.set_io_value(0, value);
                if let Some(ring) = &self.shared.trace {
                    ring.answered(value);
                }
                Action::Continue
            })
        };
        self.accel.set_msr_fault(answer.is_none());
        answer.unwrap_or(Action::Continue)
    }
}
