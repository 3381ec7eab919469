package store

import "testing"

func TestNetworkFS(t *testing.T) {
	if name := networkFS(t.TempDir()); name != "" {
		t.Skipf("the temporary directory is on %s", name)
	}
	for magic, want := range map[int64]string{0x6969: "NFS", 0xff534d42 - 1<<32: "SMB", 0xff534d42: "SMB", 0xfe534d42: "SMB", 0x517b: "SMB", 0xef53: "", 0x01021994: "", 0x9123683e: "", 0x58465342: ""} {
		if got := networkFSName(magic); got != want {
			t.Errorf("%#x is %q, want %q", magic, got, want)
		}
	}
}
