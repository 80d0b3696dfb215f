//! Bodies as clients really send them, and bodies nobody should send.

use ovirt_gateway::model::{self, Action, Disk, DiskStatus, Fault, Timestamp, Vm, Vms, json, xml};

fn vm(body: &str) -> Vm {
    xml::from_slice(body.as_bytes()).expect(body)
}

#[test]
fn order_unknown_elements_and_echoes_do_not_matter() {
    let vm = vm(r#"<vm href="/x" unknown="1"><memory>1</memory><link href="a" rel="b"/><name>n</name>
        <link href="c" rel="d"/><novelty><deep>1</deep></novelty><cpu/><nics href="/y"/>
        <cluster><name>Default</name></cluster><id>7</id><delete_protected>True</delete_protected></vm>"#);
    assert_eq!(vm.memory, Some(1));
    assert_eq!(vm.link.len(), 2);
    assert_eq!(vm.id.as_deref(), Some("7"));
    assert_eq!(vm.delete_protected, Some(true));
    assert_eq!(vm.cluster.and_then(|cluster| cluster.name).as_deref(), Some("Default"));
    assert_eq!((vm.cpu, vm.nics), (Some(model::Cpu::default()), Some(model::Nics::default())));
}

#[test]
fn json_scalars_come_as_text_or_bare() {
    for body in [
        r#"{"provisioned_size":"4096","sparse":"true","status":"ok","storage_domains":{"storage_domain":[{"id":"s"}]}}"#,
        r#"{"provisioned_size":4096,"sparse":true,"status":"ok","new":{"x":[1]},"storage_domains":{"storage_domain":{"id":"s"}}}"#,
        r#"{"provisioned_size":4096,"sparse":1,"status":"ok","storage_domains":[{"id":"s"}],"format":null}"#,
    ] {
        let disk: Disk = json::from_slice(body.as_bytes()).expect(body);
        assert_eq!(disk.provisioned_size, Some(4096), "{body}");
        assert_eq!((disk.sparse, disk.status), (Some(true), Some(DiskStatus::Ok)), "{body}");
        let domains = disk.storage_domains.expect(body).storage_domain;
        assert_eq!(domains[0].id.as_deref(), Some("s"), "{body}");
    }
    assert_eq!(json::from_slice::<Disk>(b"{}").expect("empty"), Disk::default());
}

#[test]
fn an_action_may_have_no_body() {
    assert_eq!(xml::from_slice::<Action>(b"").expect("xml"), Action::default());
    assert_eq!(json::from_slice::<Action>(b" ").expect("json"), Action::default());
    assert_eq!(json::from_slice::<Action>(b"{}").expect("json"), Action::default());
    assert_eq!(xml::from_slice::<Action>(b"<action/>").expect("xml"), Action::default());
    assert!(xml::from_slice::<Vm>(b"").is_err());
    assert!(json::from_slice::<Vm>(b"").is_err());
    let body = b"<action><async>false</async><vm><os><boot><devices><device>cdrom</device></devices></boot></os></vm><use_cloud_init>1</use_cloud_init></action>";
    let action: Action = xml::from_slice(body).expect("xml");
    assert_eq!((action.r#async, action.use_cloud_init), (Some(false), Some(true)));
    let devices = action.vm.and_then(|vm| vm.os?.boot?.devices).expect("devices").device;
    assert_eq!(devices, [model::BootDevice::Cdrom]);
}

#[test]
fn empty_lists() {
    assert_eq!(json::to_string(&Vms::default()).expect("json"), "{}");
    assert!(xml::to_string(&Vms::default()).expect("xml").ends_with("\n<vms/>"));
}

#[test]
fn instants_have_milliseconds_and_an_offset() {
    let written = |text: &str| {
        let vm = vm(&format!("<vm><creation_time>{text}</creation_time></vm>"));
        (xml::to_string(&vm).expect(text), json::to_string(&vm).expect(text))
    };
    let (xml, json) = written("2026-03-05T11:11:12.3+01:00");
    assert!(xml.contains("<creation_time>2026-03-05T10:11:12.300Z</creation_time>"), "{xml}");
    assert_eq!(json, r#"{"creation_time":1772705472300}"#);
    assert!(written("2026-03-05T10:11:12").0.contains("2026-03-05T10:11:12.000Z"));
    let odd = model::Job { end_time: Timestamp::from_millisecond(0), ..model::Job::default() };
    assert!(xml::to_string(&odd).expect("xml").contains("1970-01-01T00:00:00.000Z"));
    assert!(xml::from_slice::<Vm>(b"<vm><creation_time>x</creation_time></vm>").is_err());
}

#[test]
fn unknown_words_are_read_and_never_written() {
    let disk: Disk =
        xml::from_slice(b"<disk><format>vhdx</format><status>ok</status></disk>").expect("reads");
    assert_eq!(disk.format, Some(model::DiskFormat::Unknown));
    assert_eq!(json::to_string(&disk).expect("json"), r#"{"status":"ok"}"#);
    let vm = vm("<vm><status>dreaming</status></vm>");
    assert_eq!(json::to_string(&vm).expect("json"), r#"{"status":"unknown"}"#, "a word of the schema");
    let network: model::Network =
        xml::from_slice(b"<network><usages><usage>vm</usage><usage>x</usage></usages></network>")
            .expect("reads");
    assert_eq!(json::to_string(&network).expect("json"), r#"{"usages":{"usage":["vm"]}}"#);
}

#[test]
fn characters_xml_cannot_write_are_left_out() {
    let fault = Fault { detail: Some("a\u{1}b\u{fffe}<&>\u{0}\tä".into()), reason: None };
    let text = xml::to_string(&fault).expect("xml");
    assert!(text.contains("<detail>ab&lt;&amp;"), "{text}");
    assert_eq!(xml::from_slice::<Fault>(text.as_bytes()).expect("reads").detail.as_deref(), Some("ab<&>\tä"));
}

#[test]
fn bad_bodies_are_refused() {
    let refused = |body: &str| assert!(xml::from_slice::<Vm>(body.as_bytes()).is_err(), "{body:.80}");
    refused("<vm><memory/></vm>");
    refused("<vm><memory>1.0</memory></vm>");
    refused("<vm><memory>-1</memory></vm>");
    refused("<vm><delete_protected>yes</delete_protected></vm>");
    refused("<vm><name>a</name><name>b</name></vm>");
    refused("<vm/><vm/>");
    refused("<disk/>");
    refused("<vm>");
    refused("<vm>&x;</vm>");
    refused("<!DOCTYPE vm [<!ENTITY a 'b'>]><vm/>");
    refused(&"<vm>".repeat(40));
    refused(&format!("<vm>{}</vm>", "<x/>".repeat(100_001)));
    assert!(xml::from_slice::<Vm>(b"<vm>\xff</vm>").is_err());

    let refused = |body: &str| assert!(json::from_slice::<Vm>(body.as_bytes()).is_err(), "{body:.80}");
    refused(r#"{"name":"a","name":"b"}"#);
    refused(r#"{"memory":1.5}"#);
    refused(r#"{"name":{}}"#);
    refused(r#"{} {}"#);
    refused("[]x");
    refused(&"[".repeat(200));
    refused(&format!("{}{}", r#"{"x":"#.repeat(40), "}".repeat(40)));
    refused(&format!(r#"{{"x":[{}0]}}"#, "0,".repeat(100_001)));
}
