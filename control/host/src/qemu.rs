//! QEMU's command line for a guest.

use std::path::{Path, PathBuf};

use crate::{
    agent, disks,
    spec::{Accel, Disk, GuestSpec, MAX_NAME_BYTES},
};

/// Bytes of a Unix socket's path, without the zero at its end.
pub(crate) const MAX_SOCKET_PATH: usize = 107;

/// The guest reads its own name here.
const NAME_FILE: &str = "opt/tidegate/guest";

/// The switch box's port does not complete checksums or cut segments for a guest.
const NO_OFFLOADS: &str = "csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,\
     guest_ecn=off,guest_ufo=off,host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off";

/// Where a guest's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// Record, sockets of monitor and agent, console, log.
    pub(crate) state: PathBuf,
    /// RAM and regions.
    pub(crate) memory: PathBuf,
}

impl Places {
    pub(crate) fn qmp(&self) -> PathBuf {
        self.state.join("qmp.sock")
    }

    pub(crate) fn agent(&self) -> PathBuf {
        self.state.join("agent.sock")
    }

    /// Where QEMU sends its state while it is captured.
    pub(crate) fn state_socket(&self) -> PathBuf {
        self.state.join("out.sock")
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.state.join("console.log")
    }

    /// What QEMU itself prints.
    pub(crate) fn log(&self) -> PathBuf {
        self.state.join("qemu.log")
    }

    pub(crate) fn ram(&self) -> PathBuf {
        self.memory.join("ram")
    }

    pub(crate) fn region(&self, name: &str) -> PathBuf {
        self.memory.join(format!("region-{name}"))
    }
}

/// Arguments after the program's name. With `incoming`, QEMU waits for `migrate-incoming`.
pub(crate) fn arguments(
    spec: &GuestSpec,
    places: &Places,
    incoming: bool,
    paused: bool,
) -> Vec<String> {
    let mut args = Arguments(Vec::new());
    args.option("-name", format!("guest={0},process=tidegate-{0}", spec.name));
    args.option("-accel", spec.accel.name());
    args.option("-cpu", if spec.accel == Accel::Kvm { "host" } else { "max" });
    args.option("-smp", spec.cpus.to_string());
    args.flags(&["-nodefaults", "-display", "none", "-no-reboot"]);
    args.option("-qmp", format!("unix:{},server=on,wait=off", escaped(&places.qmp())));
    args.option("-serial", format!("file:{}", places.console().display()));
    memory(&mut args, spec, places);
    for (index, nic) in spec.nics.iter().enumerate() {
        let socket = escaped(Path::new(&nic.vhost_socket));
        args.option("-chardev", format!("socket,id=nic{index},path={socket},reconnect=1"));
        args.option("-netdev", format!("vhost-user,id=net{index},chardev=nic{index}"));
        // Without `vectors=0`, QEMU 7.2 crashes with vhost-user under TCG.
        args.option(
            "-device",
            format!(
                "virtio-net-pci,netdev=net{index},mac={},vectors=0,romfile=,{NO_OFFLOADS}",
                nic.mac
            ),
        );
    }
    for (index, region) in spec.regions.iter().enumerate() {
        let id = region_id(index);
        let (size, path) = (region.size_bytes, escaped(&places.region(&region.name)));
        args.option(
            "-object",
            format!("memory-backend-file,id={id},share=on,size={size},mem-path={path}"),
        );
        // `master=on`, or QEMU refuses to save the guest's state.
        args.option("-device", format!("ivshmem-plain,memdev={id},master=on"));
    }
    if spec.guest_agent {
        let path = escaped(&places.agent());
        args.option("-chardev", format!("socket,id=agent,path={path},server=on,wait=off"));
        args.option("-device", "virtio-serial-pci,id=serial0");
        let port = format!("virtserialport,bus=serial0.0,chardev=agent,name={}", agent::PORT);
        args.option("-device", port);
    }
    for (index, disk) in disks::opened(spec, places).iter().enumerate() {
        drive(&mut args, index, disk);
    }
    // A clone gets an identity of its own, one that goes on as another that one's.
    let generation =
        if spec.generation_id.is_empty() { "auto" } else { spec.generation_id.as_str() };
    args.option("-device", format!("vmgenid,guid={generation}"));
    // A clone's kernel remembers the file's size from its source, so the size is always the same.
    args.option("-fw_cfg", format!("name={NAME_FILE},string={:<MAX_NAME_BYTES$}", spec.identity()));
    for (flag, value) in
        [("-kernel", &spec.kernel), ("-initrd", &spec.initrd), ("-append", &spec.cmdline)]
    {
        if !value.is_empty() {
            args.option(flag, value.as_str());
        }
    }
    if incoming {
        args.option("-incoming", "defer");
    }
    // A state says whether its guest ran, and QEMU would go by it: whether the guest runs is ours to say.
    if paused || incoming {
        args.flags(&["-S"]);
    }
    args.0.extend(spec.extra_args.iter().cloned());
    args.0
}

/// The id of the machine's memory.
pub(crate) const RAM_ID: &str = "ram0";

/// The id of the memory of the region at an index.
pub(crate) fn region_id(index: usize) -> String {
    format!("region{index}")
}

fn drive(args: &mut Arguments, index: usize, disk: &Disk) {
    let (path, format) = (escaped(&disk.path), disk.format.name());
    let on = |flag: bool| if flag { "on" } else { "off" };
    let read_only = on(disk.read_only);
    // Other writers would be locked out.
    let locking = if disk.shared_safe { ",locking=off" } else { "" };
    args.option(
        "-blockdev",
        format!(
            "driver=file,node-name=disk{index}-file,filename={path},read-only={read_only}{locking}"
        ),
    );
    args.option(
        "-blockdev",
        format!(
            "driver={format},node-name=disk{index},file=disk{index}-file,read-only={read_only}"
        ),
    );
    args.option(
        "-device",
        format!("virtio-blk-pci,id=vd{index},drive=disk{index},share-rw={}", on(disk.shared_safe)),
    );
}

fn memory(args: &mut Arguments, spec: &GuestSpec, places: &Places) {
    args.option("-m", format!("{}M", spec.memory_mib));
    if !spec.memory_shared {
        args.option("-machine", "q35");
        return;
    }
    // A named file: later QEMU skips only such when it saves the state with `x-ignore-shared`.
    let path = escaped(&places.ram());
    let size = spec.memory_mib;
    args.option(
        "-object",
        format!("memory-backend-file,id={RAM_ID},share=on,size={size}M,mem-path={path}"),
    );
    args.option("-machine", format!("q35,memory-backend={RAM_ID}"));
}

struct Arguments(Vec<String>);

impl Arguments {
    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(name.to_owned());
        self.0.push(value.into());
    }

    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }
}

/// In QEMU's options a comma ends a value unless it is doubled.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// A path as one word of a shell command.
pub(crate) fn shell_word(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Nic, Region};

    fn spec() -> GuestSpec {
        GuestSpec {
            name: "web".into(),
            memory_mib: 128,
            memory_shared: true,
            cpus: 2,
            accel: Accel::Tcg,
            kernel: "/boot/vmlinuz".into(),
            initrd: String::new(),
            cmdline: "console=ttyS0 quiet".into(),
            nics: vec![Nic { vhost_socket: "/run/a,b".into(), mac: "52:54:00:00:00:01".into() }],
            regions: vec![Region { name: "counts".into(), size_bytes: 65536 }],
            extra_args: vec!["-trace".into(), "x".into()],
            guest_agent: true,
            disks: vec![Disk { path: "/d/a,b".into(), read_only: true, ..Disk::default() }],
            generation_id: String::new(),
            identity: String::new(),
        }
    }

    #[test]
    fn everything_is_on_the_command_line() {
        let places = Places { state: "/s/web".into(), memory: "/m/web".into() };
        let line = arguments(&spec(), &places, true, false).join(" ");
        for part in [
            "-accel tcg -cpu max -smp 2",
            "id=ram0,share=on,size=128M,mem-path=/m/web/ram",
            "q35,memory-backend=ram0",
            "socket,id=nic0,path=/run/a,,b,reconnect=1",
            "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01,vectors=0",
            "id=region0,share=on,size=65536,mem-path=/m/web/region-counts",
            "ivshmem-plain,memdev=region0,master=on",
            "socket,id=agent,path=/s/web/agent.sock,server=on,wait=off",
            "virtserialport,bus=serial0.0,chardev=agent,name=org.qemu.guest_agent.0",
            "name=opt/tidegate/guest,string=web ",
            "-kernel /boot/vmlinuz -append console=ttyS0 quiet",
            "driver=file,node-name=disk0-file,filename=/d/a,,b,read-only=on",
            "driver=raw,node-name=disk0,file=disk0-file,read-only=on",
            "virtio-blk-pci,id=vd0,drive=disk0,share-rw=off",
            "vmgenid,guid=auto",
            "-incoming defer -S -trace x",
        ] {
            assert!(line.contains(part), "`{part}` in {line}");
        }
        let private = GuestSpec { memory_shared: false, guest_agent: false, ..spec() };
        let line = arguments(&private, &places, false, true).join(" ");
        assert!(!line.contains("ram0") && line.contains("-S"), "{line}");
        assert!(!line.contains("agent") && !line.contains("serial0"), "{line}");
    }

    #[test]
    fn shell_words_hold_quotes() {
        assert_eq!(shell_word(Path::new("/a'b c")), "'/a'\\''b c'");
    }
}
