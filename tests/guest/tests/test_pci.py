"""NVMe controllers of the machine that the host runs on: QEMU's, behind an emulated IOMMU, bound to vfio-pci."""

import os

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

    def run_on(self, script, *namespaces):
        env = {name: os.environ[name] for name in ("DRIVEBAY_BIN", "DRIVEBAY_PLUGIN_DIR")}
        qemu_arg = [IOMMU, *self.controller(*namespaces)]
        self.run_script(script, env=env, net="none", mem="1536M", append="intel_iommu=on", qemu_arg=qemu_arg)

    def test_two_namespaces_of_a_controller_behind_an_iommu_serve_a_kernel_initiator(self):
        self.run_on("pci.sh", "", "")
        (controller,) = self.found("controllers.json")[0]["ctrlrs"]
        self.assertEqual(controller["trid"]["trtype"], "PCIe")
