//! Every point that `crash::point!` names: what is half done there, what leads there, who may die there.

/// What a client does, to come to a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// A backup of the instance that runs, and downloads of its disks.
    Running,
    /// The same of the one that is stopped.
    Stopped,
    /// A backup whose download is cancelled.
    Cancel,
    /// A backup of which an export dies.
    Failing,
    /// Two backups, the second incremental from the first, and then no checkpoint any more.
    Chain,
    /// A download without a backup.
    Plain,
    /// Disk, upload, instance, attach, read again, delete: on a pool that takes imports (recipe C).
    Import,
    /// The same where CloudStack is told by a row of its own (recipe G).
    Point,
    /// The upload of a whole qcow2 file.
    File,
    /// A disk that CloudStack refuses at the last moment.
    Undo,
    /// A backup in whose beginning the host's daemon died: the next one undoes it.
    Unmade,
    /// The gateway was killed with backups and a transfer open, and starts again.
    GatewayStarts,
    /// The host's daemon was, and starts again.
    HostStarts,
}

pub struct Point {
    pub name: &'static str,
    pub flow: Flow,
    /// What is done, and what is not.
    pub half: &'static str,
}

const fn p(name: &'static str, flow: Flow, half: &'static str) -> Point {
    Point { name, flow, half }
}

use Flow::{
    Cancel, Chain, Failing, File, GatewayStarts, HostStarts, Import, Plain, Point as Row, Running, Stopped,
    Undo, Unmade,
};

pub const POINTS: &[Point] = &[
    p("gateway.backup.inserted", Running, "the row is there; nobody works on it"),
    p("gateway.backup.starting", Running, "the row says so; the host was not asked"),
    p("gateway.backup.asked", Running, "the host has its exports; the row knows none"),
    p("gateway.backup.exported", Running, "the exports are noted; the phase is still starting"),
    p("gateway.backup.ready", Running, "ready, and nobody was told"),
    p("gateway.backup.finalizing", Running, "the client is done; the host was not asked"),
    p("gateway.backup.looked", Running, "the host's word is known; nothing is ended"),
    p("gateway.backup.ended", Stopped, "the host has ended it; the row is finalizing"),
    p("gateway.backup.judged", Stopped, "the verdict is known; the row is finalizing"),
    p("gateway.backup.failing", Failing, "the failure is noted; the host holds what it held"),
    p("gateway.backup.cleared", Failing, "the host is cleared; the row is open"),
    p("gateway.checkpoint.doomed", Chain, "out of use; its bitmaps are there"),
    p("gateway.checkpoint.forgetting", Chain, "the host was not asked to delete its bitmaps"),
    p("gateway.checkpoint.forgotten", Chain, "its bitmaps are deleted; their rows are there"),
    p("gateway.transfer.inserted", Running, "the row is there; nobody works on it"),
    p("gateway.transfer.exported", Plain, "the host exports the disk; the row does not know it"),
    p("gateway.transfer.ticketed", Running, "the ticket is installed; the row is initializing"),
    p("gateway.transfer.transferring", Running, "transferring, and nobody was told"),
    p("gateway.transfer.finalizing", Plain, "the client is done; ticket and export are there"),
    p("gateway.transfer.unticketed", Import, "the ticket is gone; the export is not ended"),
    p("gateway.transfer.committed", Import, "the host has ended it; the row is finalizing"),
    p("gateway.transfer.cancelled", Cancel, "cancelled; ticket and export are there"),
    p("gateway.transfer.cleared", Cancel, "the host is cleared; the row is open"),
    p("gateway.disk.allocated", Row, "CloudStack has a row without an image"),
    p("gateway.disk.imaged", Import, "the image is there; CloudStack does not know it"),
    p("gateway.disk.known", Import, "CloudStack knows the image; the client's id is not given"),
    p("gateway.disk.pointed", Row, "the row points to the image; it is not noted here"),
    p("gateway.disk.kept", Import, "all is done; the steps to undo it are there still"),
    p("gateway.disk.deleted", Import, "CloudStack has deleted it; it is not noted here"),
    p("gateway.work.noted", Import, "the job's id is noted; the job was not sent"),
    p("gateway.work.submitted", Row, "the job runs; what it makes is not noted"),
    p("gateway.work.undoing", Undo, "the work failed; all it made is there"),
    p("gateway.work.undone", Undo, "a step is undone; it is still noted"),
    p("gateway.instance.noted", Import, "the instance is being deployed"),
    p("gateway.instance.deployed", Import, "it is deployed, with the template's volume"),
    p("gateway.instance.detached", Import, "the volume is detached, not deleted"),
    p("gateway.instance.emptied", Import, "it is diskless; its details are missing"),
    p("gateway.instance.destroying", Import, "nothing is destroyed yet"),
    p("gateway.instance.destroyed", Import, "CloudStack has destroyed it; it is not noted here"),
    p("gateway.attach.asking", Import, "the disk has its owner; it is not attached"),
    p("gateway.attach.attached", Import, "it is attached; the client does not know"),
    p("gateway.reconcile.began", GatewayStarts, "nothing is looked at"),
    p("gateway.reconcile.undone", GatewayStarts, "half-made work is undone; no row is looked at"),
    p("gateway.reconcile.backups", GatewayStarts, "backups are taken up; transfers are not"),
    p("gateway.reconcile.done", GatewayStarts, "all is taken up; nobody can ask yet"),
    p("host.backup.recorded", Running, "the record is there; the job was not ordered"),
    p("host.backup.ordered", Running, "the order is written; libvirt has not got it"),
    p("host.backup.begun", Running, "the job runs; the record has no answer"),
    p("host.backup.noted", Stopped, "the record is there; no export is"),
    p("host.backup.marked", Stopped, "the first image has its bitmap; the others do not"),
    p("host.backup.stamped", Stopped, "the record has its stamps; no export runs"),
    p("host.backup.served", Stopped, "the first export runs; the others do not"),
    p("host.backup.kept", Stopped, "the record is whole; the gateway was not told"),
    p("host.backup.ending", Running, "the tickets are revoked; the job runs"),
    p("host.backup.aborting", Running, "libvirt was told to end the job; whether it has, nobody knows"),
    p("host.backup.aborted", Running, "the job has ended; files and record are there"),
    p("host.backup.stopped", Stopped, "the exports have ended; the record is there"),
    p("host.backup.ended", Stopped, "nothing is left; the gateway was not told"),
    p("host.backup.unmade", Unmade, "what was begun is undone; its record is there"),
    p("host.checkpoint.erasing", Chain, "bitmaps are to go, and are there"),
    p("host.checkpoint.erased", Chain, "a running instance's bitmaps are deleted; the gateway was not told"),
    p("host.export.recorded", Plain, "the record is there; no export is"),
    p("host.export.started", Plain, "the export runs; the record has no answer"),
    p("host.export.kept", Import, "the record is whole; the gateway was not told"),
    p("host.export.ending", Import, "all is written; the export runs"),
    p("host.export.stopped", Import, "the export has ended; the record is there"),
    p("host.export.ended", Import, "nothing is left; the gateway was not told"),
    p("host.export.checked", File, "the file is good; it is not in its place"),
    p("host.export.renamed", File, "the file is in its place; the record is there"),
    p("host.volume.created", Import, "the file is empty"),
    p("host.volume.made", Import, "the image is whole; the gateway was not told"),
    p("host.volume.deleting", Undo, "the image is to go, and is there"),
    p("host.ticket.installing", Running, "the ticket was asked for, and is not there"),
    p("host.ticket.removing", Plain, "the ticket is to go, and is there"),
    p("host.desk.adopting", HostStarts, "records are read; nothing is taken up"),
    p("host.desk.open", HostStarts, "all is taken up; nobody can ask yet"),
];
