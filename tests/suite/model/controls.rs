//! Rules left out, each in a small world where that does harm: what proves that the search can find something.

use crate::model::protocol::{Flaw, Plans, Role, Scenario};
use crate::model::scenarios::{C, NOBODY, backup, compared, forgetter, healer, in_segments, p, pruner, pruner_with_list};
use crate::model::scenarios::{publishing, spare_is_empty, with_objects};
use crate::model::world::{Kind, Log, Record};

impl Scenario {
    fn flawed(self, flaw: Flaw) -> Scenario {
        Scenario { flaw: Some(flaw), ..self }
    }
    fn loss_only(self) -> Scenario {
        Scenario { loss_only: true, ..self }
    }
}

/// A rule left out, where that does harm, and what must be found.
pub fn flawed() -> Vec<(Scenario, &'static str)> {
    let one = |name, flaw| Scenario::new(name, 1).flawed(flaw);
    let two = |name, flaw| Scenario::new(name, 2).flawed(flaw).start(spare_is_empty);
    let all = Plans::All;
    vec![
        (one("no check at commit", Flaw::CommitUnchecked).with(Role::Backup(backup(3))).with(pruner(8, 1, all)), "S6"),
        (
            one("no check at commit: what it leads to", Flaw::CommitUnchecked)
                .with(Role::Backup(backup(3)))
                .with(pruner(8, 1, all))
                .loss_only(),
            "S1",
        ),
        (one("own packs not checked at commit", Flaw::OwnUnseen).with(publishing(backup(1))).with(pruner(8, 1, all)), "S6"),
        (one("hits not checked at commit", Flaw::HitUnseen).with(Role::Backup(backup(3))).with(pruner(8, 1, all)), "S6"),
        (
            one("hits found damaged and not noticed at commit", Flaw::HitDamageUnseen)
                .with(Role::Backup(backup(3)))
                .with(Role::Verifier { at: 0 })
                .damage(0, p(0)),
            "S6",
        ),
        (one("publish without the check", Flaw::PublishUnchecked).with(publishing(compared(1))).with(pruner(8, 1, all)), "S4"),
        (
            one("create that overwrites", Flaw::CreateOverwrites).with(Role::Backup(compared(1))).with(Role::Backup(compared(2))),
            "S2",
        ),
        (
            one("names derived from plaintext: a condemned name is created again", Flaw::NamesFromPlaintext)
                .with(Role::Backup(backup(3)))
                .with(pruner(8, 1, all))
                .start(|world| {
                    // The dead chunk has a pack of its own, under the name that its content gives.
                    let log = &mut world.logs[0];
                    *log = Log::default();
                    log.push(Record::new(Kind::Publish, NOBODY, p(12)));
                    (world.contents[12], world.present[0]) = (C, p(12));
                })
                .loss_only(),
            "S1",
        ),
        (one("delete before the record", Flaw::DeleteBeforeRecord).with(pruner(8, 1, all)), "S3"),
        (
            one("delete before the record: what it leads to", Flaw::DeleteBeforeRecord)
                .with(pruner(8, 1, all))
                .with(Role::Backup(backup(3)))
                .loss_only(),
            "S1",
        ),
        (
            one("condemn not checked again after a lost race", Flaw::CondemnNotRechecked)
                .with(Role::Backup(backup(3)))
                .with(pruner(8, 1, all)),
            "S5",
        ),
        (
            one("what was published since the plan is condemned", Flaw::PublishNotSpared)
                .with(with_objects(true))
                .with(pruner(8, 1, all))
                .start(in_segments),
            "S5",
        ),
        (
            one("what was committed since the plan is condemned", Flaw::CommitNotSpared)
                .with(Role::Backup(backup(3)))
                .with(pruner(8, 1, all)),
            "S5",
        ),
        (
            one("what was compacted since the plan is condemned", Flaw::CompactNotSpared)
                .with(Role::Compactor { at: 0, segment: p(12) })
                .with(pruner(8, 1, all))
                .start(in_segments),
            "S5",
        ),
        (
            one("covers not checked again after a lost race", Flaw::CoversNotRechecked)
                .with(pruner(8, 1, all))
                .with(pruner(10, 1, all)),
            "S5",
        ),
        (
            one("a cover found damaged since the plan", Flaw::CoverDamageUnseen)
                .with(pruner(8, 1, all))
                .with(Role::Verifier { at: 0 })
                .damage(0, p(8)),
            "S5",
        ),
        (
            one("parent forgotten during the run and not noticed", Flaw::ParentUnseen)
                .with(publishing(compared(2)))
                .with(pruner(8, 1, all))
                .with(forgetter(0, 0)),
            "S6",
        ),
        (
            one("damage found during the run and not noticed", Flaw::DistrustUnseen)
                .with(publishing(compared(2)))
                .with(Role::Verifier { at: 0 })
                .damage(0, p(1)),
            "S6",
        ),
        (
            one("own pack found damaged before the commit and not noticed", Flaw::OwnDamageUnseen)
                .with(publishing(backup(1)))
                .with(Role::Verifier { at: 0 })
                .damage(0, p(2)),
            "S6",
        ),
        (
            two("a healer that ignores forgets at the source", Flaw::HealIgnoresForgets)
                .with(healer(0, 0, 12))
                .with(forgetter(0, 0)),
            "S6",
        ),
        (
            two("a healer that ignores forgets at the target", Flaw::HealIgnoresForgets)
                .with(healer(0, 0, 12))
                .with(Role::Forgetter { at: 1, snapshot: 0, anyway: true }),
            "S6",
        ),
        (
            one("a snapshot's object that was condemned", Flaw::ObjectUnchecked)
                .with(with_objects(false))
                .with(pruner(8, 1, all)),
            "S4",
        ),
        (
            one("a list that was condemned before its record", Flaw::ListUnchecked)
                .with(pruner_with_list(12, all))
                .with(pruner(10, 1, all)),
            "S5",
        ),
        (
            one("a list that is condemned after its record", Flaw::ListNotSpared)
                .with(pruner_with_list(12, all))
                .with(pruner(10, 1, all)),
            "S1",
        ),
        (
            one("a segment that was condemned before its compaction", Flaw::CompactUnchecked)
                .with(Role::Compactor { at: 0, segment: p(12) })
                .with(pruner(8, 1, all))
                .start(in_segments),
            "S4",
        ),
        (one("an unknown outcome taken for success", Flaw::UnknownIsDone).with(Role::Backup(backup(3))).ambiguous(), "S2"),
    ]
}
