//! Templates, and Blank, which every oVirt has.

use super::{href, ids, timestamp, vm::os_type};
use crate::cloudstack::types;
use crate::model::{Architecture, Cpu, Os, Template, TemplateStatus, TemplateVersion, Topology, VmType};

pub fn template(template: &types::Template, name: Option<&str>) -> Template {
    Template {
        description: template.displaytext.clone(),
        creation_time: template.created.as_deref().and_then(timestamp),
        os: Some(Os {
            r#type: Some(os_type(template.ostypename.as_deref().unwrap_or_default()).to_owned()),
            ..Os::default()
        }),
        status: Some(if template.isready { TemplateStatus::Ok } else { TemplateStatus::Locked }),
        ..plain(&template.id, name.unwrap_or(&template.name))
    }
}

pub fn blank_template() -> Template {
    plain(ids::ZERO, "Blank")
}

/// CloudStack's templates have neither processors nor memory; clients insist on both.
fn plain(id: &str, name: &str) -> Template {
    Template {
        href: Some(href::template(id)),
        id: Some(id.to_owned()),
        name: Some(name.to_owned()),
        cpu: Some(Cpu {
            architecture: Some(Architecture::X86_64),
            topology: Some(Topology { cores: Some(1), sockets: Some(1), threads: Some(1) }),
            ..Cpu::default()
        }),
        memory: Some(MEMORY),
        r#type: Some(VmType::Server),
        status: Some(TemplateStatus::Ok),
        version: Some(TemplateVersion {
            version_name: Some("base version".to_owned()),
            version_number: Some(1),
            base_template: None,
        }),
        ..Template::default()
    }
}

/// Bytes: what oVirt's own Blank has.
const MEMORY: u64 = 1 << 30;
