"""Lists everything a client looks at first, and checks that what belongs together fits together."""

from gateway import connect

connection = connect()
assert connection.test(raise_exception=True)
system = connection.system_service()

api = system.get()
assert api.product_info.version.major == 4, api.product_info.version.major
assert api.summary.vms.total >= 2, api.summary.vms.total

centers = {center.id for center in system.data_centers_service().list()}
clusters = {cluster.id: cluster for cluster in system.clusters_service().list()}
assert centers and clusters
for cluster in clusters.values():
    assert cluster.data_center.id in centers, cluster.name
assert system.hosts_service().list()
assert system.storage_domains_service().list()
networks = {network.id for network in system.networks_service().list()}
for profile in system.vnic_profiles_service().list():
    assert profile.network.id in networks, profile.name

disks = {disk.id: disk for disk in system.disks_service().list()}
vms = system.vms_service().list()
for vm in vms:
    assert vm.cluster.id in clusters, vm.name
    one = system.vms_service().vm_service(vm.id)
    got = one.get()
    assert (got.id, got.name, got.status) == (vm.id, vm.name, vm.status)
    attachments = one.disk_attachments_service().list()
    assert sum(bool(attachment.bootable) for attachment in attachments) <= 1, vm.name
    for attachment in attachments:
        disk = disks[attachment.disk.id]
        assert disk.provisioned_size > 0, disk.name
        assert system.disks_service().disk_service(disk.id).get().name == disk.name
    nics = one.nics_service().list()
    for nic in nics:
        assert nic.mac.address, vm.name
    print("vm", vm.id, vm.name, vm.status, len(attachments), "disks", len(nics), "nics")

followed = system.vms_service().list(all_content=True, follow="tags,disk_attachments.disk,nics.reporteddevices")
assert {vm.id for vm in followed} == {vm.id for vm in vms}
for vm in followed:
    for attachment in vm.disk_attachments or []:
        assert attachment.disk.provisioned_size == disks[attachment.disk.id].provisioned_size

connection.close()
