#!/bin/sh
# The first process of the guest: mounts, modules, network; then the service that the tests talk to.
export PATH=/usr/bin:/usr/sbin:/bin:/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /dev/hugepages
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t hugetlbfs hugetlbfs /dev/hugepages
ln -s /proc/self/fd /dev/fd
for module in virtio_pci virtio_net nvme ext4 dm-mod vfio_iommu_type1 vfio-pci; do
  modprobe "$module" || echo "no module $module"
done
ip link set lo up
while ! ip link show eth0 >/dev/null 2>&1; do usleep 50000; done
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
node /opt/guest/service.js
echo "the guest's service ended"
poweroff -f
