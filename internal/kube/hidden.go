package kube

import (
	"os"

	"k8s.io/client-go/tools/clientcmd"
)

// CredentialFiles gives the paths of what holds the credentials for a cluster, and so must be kept from commands: the
// kubeconfig, the keys and tokens that it names, whatever context they are for, and what a pod is given. What cannot be
// read names nothing.
func CredentialFiles(kubeconfig string) []string {
	return credentialFiles(kubeconfig, serviceAccount)
}

func credentialFiles(kubeconfig, account string) (files []string) {
	if _, err := os.Stat(account); err == nil {
		files = append(files, account)
	}
	if kubeconfig == "" {
		return files
	}
	files = append(files, kubeconfig)
	raw, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil || clientcmd.ResolveLocalPaths(raw) != nil {
		return files
	}
	for _, user := range raw.AuthInfos {
		for _, file := range []string{user.ClientKey, user.TokenFile} {
			if file != "" {
				files = append(files, file)
			}
		}
	}
	return files
}
