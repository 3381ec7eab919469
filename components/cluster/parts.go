package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// parts are the processes of the cluster in the order of their start. Everything that a cluster does when nothing happens is
// made rare: there is one of each, nobody has to be elected, and what is checked every few seconds elsewhere is checked every
// few minutes.
func (c *cluster) parts() []process {
	all := []process{c.etcd(), c.apiserver(), c.controllerManager(), c.scheduler(), c.addons(), c.runtime(), c.kubelet(), c.tekton()}
	if !c.Node {
		all = []process{c.etcd(), c.apiserver(), c.controllerManager(), c.paper(), c.tekton()}
	}
	for i := range all {
		all[i].Order = i
	}
	return all
}

func (c *cluster) etcd() process {
	client, peer := "http://127.0.0.1:"+c.port("etcd"), "http://127.0.0.1:"+c.port("etcd-peer")
	return process{Name: "etcd", Args: []string{
		"etcd", "--data-dir", c.at("etcd"), "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
		"--heartbeat-interval", "300", "--election-timeout", "1500", // nobody listens to the heart of a single one
		"--unsafe-no-fsync", "--logger", "zap", "--log-level", "warn",
	}}
}

func (c *cluster) apiserver() process {
	cert := func(name string) string { return c.at("certs", name) }
	args := []string{
		c.built("kubernetes", "kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:" + c.port("etcd"),
		"--tls-cert-file=" + cert("kube-apiserver.crt"), "--tls-private-key-file=" + cert("kube-apiserver.key"),
		"--client-ca-file=" + cert("ca.crt"),
		"--service-account-key-file=" + cert("service-accounts.key"),
		"--service-account-signing-key-file=" + cert("service-accounts.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-cluster-ip-range=" + c.Network.services(),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", // Pod Security is on by itself
		"--allow-privileged=true", "--profiling=false",
		"--endpoint-reconciler-type=none", // who stands in for kube-proxy knows where it is
	}
	if c.Node {
		args = append(args,
			"--bind-address="+c.Network.host(), "--secure-port="+c.port("kube-apiserver"), "--advertise-address="+c.Network.host(),
			"--kubelet-certificate-authority="+cert("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
			"--kubelet-client-certificate="+cert("kubelet-client.crt"), "--kubelet-client-key="+cert("kubelet-client.key"))
	} else {
		args = append(args, "--bind-address=127.0.0.1", "--secure-port="+c.port("kube-apiserver"), "--advertise-address=127.0.0.1")
	}
	return process{Name: "kube-apiserver", Args: args}
}

func (c *cluster) controllerManager() process {
	config := c.at("certs", "kube-controller-manager.kubeconfig")
	return process{Name: "kube-controller-manager", Args: []string{
		c.built("kubernetes", "kube-controller-manager"),
		"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--bind-address=127.0.0.1", "--secure-port=" + c.port("kube-controller-manager"),
		"--leader-elect=false", "--use-service-account-credentials", "--profiling=false",
		"--service-account-private-key-file=" + c.at("certs", "service-accounts.key"), "--root-ca-file=" + c.at("certs", "ca.crt"),
		"--node-monitor-period=1m", "--node-monitor-grace-period=20m", "--pvclaimbinder-sync-period=1m",
		"--flex-volume-plugin-dir=" + c.at("volume-plugins"),
		"--horizontal-pod-autoscaler-sync-period=1m", "--attach-detach-reconcile-sync-period=5m",
		"--controllers=*,-node-ipam-controller,-node-route-controller,-cloud-node-lifecycle-controller,-service-lb-controller",
	}}
}

func (c *cluster) scheduler() process {
	config := c.at("certs", "kube-scheduler.kubeconfig")
	return process{Name: "kube-scheduler", Args: []string{
		c.built("kubernetes", "kube-scheduler"),
		"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--bind-address=127.0.0.1", "--secure-port=" + c.port("kube-scheduler"), "--leader-elect=false", "--profiling=false",
	}}
}

func (c *cluster) runtime() process {
	return process{Name: "containerd", Args: []string{"containerd", "--config", c.at("containerd.toml")}}
}

func (c *cluster) kubelet() process {
	return process{Name: "kubelet", Args: []string{
		c.built("kubernetes", "kubelet"),
		"--config=" + c.at("kubelet.yaml"), "--kubeconfig=" + c.at("certs", "kubelet.kubeconfig"),
		"--root-dir=" + c.kubeletDir(), "--cert-dir=" + c.at("certs"), "--hostname-override=" + nodeName, "--node-ip=" + c.Network.host(),
		"--housekeeping-interval=15s",
	}}
}

func (c *cluster) paper() process {
	return process{Name: "paper", Args: []string{filepath.Join(c.dir, "cluster"), "paper"}}
}

func (c *cluster) addons() process {
	n, program := c.Network, filepath.Join(c.dir, "cluster")
	return process{Name: "addons", Apart: n.services(), Args: []string{program, "apart", n.host(), n.addons(), program, "addons"}}
}

func (c *cluster) tekton() process {
	args := []string{
		c.built("tekton", "controller"), "-kubeconfig", c.at("certs", "tekton.kubeconfig"), "-disable-ha=true",
		"-kube-api-qps", "100", "-kube-api-burst", "200", "-shell-image", imageBusybox, "-shell-image-win", imageBusybox,
		"-sidecarlogresults-image", imageTekton("nop"), // for results by another way than the one that is set
	}
	for _, program := range []string{"entrypoint", "nop", "workingdirinit"} {
		args = append(args, "-"+program+"-image", imageTekton(program))
	}
	apart := ""
	if c.Node {
		apart = c.Network.tekton()
		args = append([]string{filepath.Join(c.dir, "cluster"), "apart", c.Network.host(), apart}, args...)
	}
	return process{Name: "tekton", Args: args, Apart: apart, Env: []string{
		"SYSTEM_NAMESPACE=tekton-pipelines", "KUBERNETES_MIN_VERSION=v1.28.0", "METRICS_DOMAIN=tekton.dev/pipeline",
		"CONFIG_DEFAULTS_NAME=config-defaults", "CONFIG_LOGGING_NAME=config-logging",
		"CONFIG_OBSERVABILITY_NAME=config-observability", "CONFIG_FEATURE_FLAGS_NAME=feature-flags",
		"CONFIG_LEADERELECTION_NAME=config-leader-election-controller", "CONFIG_SPIRE=config-spire",
		"PROBES_PORT=" + c.port("tekton"), "METRICS_PROMETHEUS_PORT=" + c.port("tekton-metrics"),
		"PROFILING_PORT=" + c.port("tekton-profiling"),
	}}
}

// kubeletDir is the kubelet's folder: at a short path, as it keeps sockets in it.
func (l layout) kubeletDir() string { return filepath.Join(l.short, "kubelet") }

// containerdConfig is containerd's configuration: everything of it in the cluster's own folders, no registry, and nothing that
// a machine may lack (AppArmor, systemd, a capability to lower the score of the out-of-memory killer).
const containerdConfig = `version = 2
root = %[1]q
state = %[2]q
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = %[3]q
[plugins."io.containerd.internal.v1.opt"]
  path = %[4]q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[5]q
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  stats_collect_period = 60
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = %[6]q
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = %[7]q
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = %[8]q
`

// kubeletConfig is the kubelet's configuration. Pods share one control group of the cluster; nothing is evicted, and no image
// is removed, for want of space: the images cannot be had again.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: %[1]s
port: %[2]s
healthzPort: %[3]s
readOnlyPort: 0
tlsCertFile: %[4]s/kubelet.crt
tlsPrivateKeyFile: %[4]s/kubelet.key
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: false}
  x509:
    clientCAFile: %[4]s/ca.crt
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix://%[5]s
cgroupDriver: cgroupfs
cgroupRoot: /%[6]s
cgroupsPerQOS: true
enforceNodeAllocatable: []
failSwapOn: false
failCgroupV1: false
localStorageCapacityIsolation: true
makeIPTablesUtilChains: false
registerNode: true
maxPods: 600
resolvConf: %[7]s/resolv.conf
podLogsDir: %[7]s/pods
volumePluginDir: %[7]s/volume-plugins
clusterDomain: cluster.local
clusterDNS: [%[8]s]
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%"}
imageGCHighThresholdPercent: 100
imageMinimumGCAge: 24h
syncFrequency: 10s
nodeStatusUpdateFrequency: 5m
nodeStatusReportFrequency: 5m
nodeLeaseDurationSeconds: 600
fileCheckFrequency: 1h
volumeStatsAggPeriod: 10m
cpuManagerReconcilePeriod: 1h
kubeAPIQPS: 100
kubeAPIBurst: 200
serializeImagePulls: false
`

// configureNode writes the configurations of containerd and the kubelet.
func (c *cluster) configureNode() error {
	err := os.WriteFile(c.at("containerd.toml"), fmt.Appendf(nil, containerdConfig,
		c.at("containerd"), filepath.Join(c.short, "containerd"), c.containerd(), c.at("opt"), imagePause, c.at("cni"),
		c.snapshotter(), filepath.Join(c.short, "runc")), 0o644)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.at("resolv.conf"), []byte("nameserver "+c.Network.dns()+"\n"), 0o644); err != nil {
		return err
	}
	return os.WriteFile(c.at("kubelet.yaml"), fmt.Appendf(nil, kubeletConfig,
		c.Network.host(), c.port("kubelet"), c.port("kubelet-health"), c.at("certs"), c.containerd(), c.cgroup(), c.run, c.Network.dns()), 0o644)
}

// cgroup is the name of the control group of all pods.
func (l layout) cgroup() string { return "sentry-" + l.id }

// snapshotter is how containerd stacks the layers of images: by overlayfs, or, where the state is on one already, by copying.
func (l layout) snapshotter() string {
	if _, err := os.Stat(l.at("copies")); err == nil {
		return "native"
	}
	return "overlayfs"
}

func snapshotterFlag(l layout) []string { return []string{"--snapshotter", l.snapshotter()} }

// tryOverlay finds out whether overlayfs works in the state folder, and leaves a mark where it does not.
func (l layout) tryOverlay() error {
	dir := l.at("overlay")
	defer os.RemoveAll(dir)
	for _, sub := range []string{"lower", "upper", "work", "merged"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	merged := filepath.Join(dir, "merged")
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	if err := syscall.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return os.WriteFile(l.at("copies"), []byte(err.Error()), 0o644)
	}
	return syscall.Unmount(merged, 0)
}

// programs are those that must be on the machine.
func (c *cluster) programs() error {
	wanted := []string{"etcd"}
	if c.Node {
		wanted = append(wanted, "containerd", "ctr", "runc", "ip", "busybox")
	}
	var missing error
	for _, name := range wanted {
		if _, err := exec.LookPath(name); err != nil {
			missing = errors.Join(missing, err)
		}
	}
	return missing
}
