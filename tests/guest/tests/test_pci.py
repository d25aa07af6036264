"""NVMe controllers of the machine that the host runs on: QEMU's, behind an emulated IOMMU, bound to vfio-pci."""

import os
import time

from guest import soak_only
from nvme_guest import NvmeGuestTest

# QEMU requires the IOMMU before the devices whose addresses it translates.
IOMMU = "-device intel-iommu,intremap=on,caching-mode=on,device-iotlb=on"


class Pci(NvmeGuestTest):
    def controller(self, *namespaces):
        """QEMU's arguments for a controller with a namespace for each text, which is more of its properties."""
        args = ["-device nvme,id=nvme0,serial=PCI1"]
        for nsid, more in enumerate(namespaces, 1):
            path = f"{self.rundir}/n{nsid}.img"
            with open(path, "wb") as f:
                f.truncate(64 << 20)
            args += [f"-drive if=none,id=n{nsid},format=raw,file={path},discard=unmap",
                     f"-device nvme-ns,drive=n{nsid},bus=nvme0,nsid={nsid}{more}"]
        return args

    def options(self, qemu_arg):
        env = {name: os.environ[name] for name in ("DRIVEBAY_BIN", "DRIVEBAY_PLUGIN_DIR")}
        return {"env": env, "net": "none", "mem": "1536M", "append": "intel_iommu=on", "qemu_arg": [IOMMU, *qemu_arg]}

    def test_namespaces_of_a_controller_behind_an_iommu_serve_a_kernel_initiator(self):
        zoned = ",zoned=true,zoned.zone_size=1M,zoned.zone_capacity=771K,zoned.max_open=9,zoned.max_active=9"
        namespaces = ["", ",logical_block_size=4096,physical_block_size=4096", ",ms=8,mset=1", zoned]
        self.run_script("pci.sh", **self.options(self.controller(*namespaces)))
        (controller,) = self.found("controllers.json")[0]["ctrlrs"]
        self.assertEqual(controller["trid"]["trtype"], "PCIe")
        (device,) = self.found("devices.json")
        self.assertEqual(device["address"], controller["trid"]["traddr"])
        # Vendor 1b36 and device 0010: QEMU's controller.
        self.assertTrue(device["config_space"].startswith("361b1000"), device)

    @soak_only
    def test_a_controller_comes_and_goes_and_comes_back_under_verified_load(self):
        path = f"{self.rundir}/hot.img"
        with open(path, "wb") as f:
            f.truncate(64 << 20)
        qemu_arg = ["-device pcie-root-port,id=slot1,chassis=1,slot=1",
                    f"-blockdev driver=raw,node-name=hot,file.driver=file,file.filename={path}"]
        guest = self.begin("hotplug.sh", **self.options(qemu_arg))

        def plug_in():
            # QEMU forgets a device a moment after the guest does.
            end = time.monotonic() + 30
            while True:
                try:
                    return guest.qmp("device_add", driver="nvme", id="hot0", serial="HOT1", bus="slot1", drive="hot")
                except AssertionError:
                    if time.monotonic() > end:
                        raise
                time.sleep(0.1)

        guest.wait_for("ready")
        plug_in()
        guest.wait_for("under_load")
        guest.qmp("device_del", id="hot0")
        guest.wait_for("gone")
        plug_in()
        self.end(guest)
        # The script waits until the removed device's pages are no longer locked. They were while it was attached.
        before, attached = (int(kib) for kib in self.found("locked_kib").split())
        self.assertGreater(attached, before)
        # A sleeping host wakes up for the controller's interrupts only. Its own timers wake it some times a second.
        self.assertLess(int(self.found("idle_wakeups")), 150)
