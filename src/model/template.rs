//! Templates.

use super::{Bios, Cpu, Display, MemoryPolicy, Os, Ref, Timestamp, VmType};

words!(TemplateStatus { Ok "ok", Locked "locked", Illegal "illegal" });
element!(TemplateVersion { version_name: String, version_number: u32, base_template: Ref });

resource! {
    Template as "template" {
        bios: Bios,
        cpu: Cpu,
        creation_time: Timestamp,
        delete_protected: bool,
        display: Display,
        memory: u64,
        memory_policy: MemoryPolicy,
        origin: String,
        os: Os,
        start_paused: bool,
        stateless: bool,
        r#type: VmType,
        cluster: Ref,
        status: TemplateStatus,
        version: TemplateVersion,
    }
}
collection!(Templates as "templates" of template: Template);
