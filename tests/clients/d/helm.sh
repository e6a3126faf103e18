# helm: charts as OCI artifacts, versions as tags, ranges over the tag list.
helm() { command helm "$@"; }
mkdir -p pulled by-digest
login() { for node in "$@"; do secret | helm registry login "$node" "${plain[@]}" -u "$KEY_ID" --password-stdin; done; }
chart() { # VERSION
  cp -r "$IMAGES/chart/demo" "demo-src-$1"; sed -i "s/^version: .*/version: $1/" "demo-src-$1/Chart.yaml"
  helm package "demo-src-$1" -d packages
}
wrong_password() { fails 'unauthorized|401' -- helm registry login "$A" "${plain[@]}" -u "$KEY_ID" -p wrong; }
push_and_pull() {
  helm push "$IMAGES/chart/demo-0.1.0.tgz" "oci://$A/helm/charts" "${plain[@]}"
  helm pull "oci://$B/helm/charts/demo" --version 0.1.0 "${plain[@]}" -d pulled
  cmp pulled/demo-0.1.0.tgz "$IMAGES/chart/demo-0.1.0.tgz"
  same "$(api GET "$C/v2/helm/charts/demo/manifests/0.1.0" | jq -r .config.mediaType)" application/vnd.cncf.helm.config.v1+json
}
versions() {
  local version; for version in 1.0.0 1.2.0 1.10.0 2.0.0-rc.1 2.0.0; do chart "$version"; helm push "packages/demo-$version.tgz" "oci://$A/helm/charts" "${plain[@]}"; done
}
picks() { helm show chart "oci://$1/helm/charts/demo" "${plain[@]}" --version "$2" | sed -n 's/^version: //p'; }
ranges() {
  same "$(picks "$B" '^1.0.0')" 1.10.0
  same "$(picks "$C" '~1.2.0')" 1.2.0
  same "$(picks "$B" '>=1.0.0 <2.0.0')" 1.10.0
  same "$(helm show chart "oci://$C/helm/charts/demo" "${plain[@]}" | sed -n 's/^version: //p')" 2.0.0
  fails 'matching|not found|no .*version' -- picks "$C" '^9.0.0'
}
plus() {
  chart '3.0.0+build.7'
  helm push 'packages/demo-3.0.0+build.7.tgz' "oci://$B/helm/charts" "${plain[@]}"
  same "$(status_at "$C" helm/charts/demo '3.0.0_build.7')" 200
  helm pull "oci://$A/helm/charts/demo" --version '3.0.0+build.7' "${plain[@]}" -d pulled
  cmp 'pulled/demo-3.0.0+build.7.tgz' 'packages/demo-3.0.0+build.7.tgz'
}
provenance() {
  chart 4.0.0; printf -- '-----BEGIN PGP SIGNED MESSAGE-----\nsample\n' >packages/demo-4.0.0.tgz.prov
  helm push packages/demo-4.0.0.tgz "oci://$C/helm/charts" "${plain[@]}"
  helm pull "oci://$A/helm/charts/demo" --version 4.0.0 --prov "${plain[@]}" -d pulled
  cmp pulled/demo-4.0.0.tgz.prov packages/demo-4.0.0.tgz.prov
}
renders() { prints 'image: busybox:latest' -- helm template demo "oci://$B/helm/charts/demo" --version 1.2.0 "${plain[@]}"; }
dependency() {
  mkdir -p parent/templates
  printf 'apiVersion: v2\nname: parent\nversion: 0.1.0\ndependencies:\n- name: demo\n  version: ^1.0.0\n  repository: oci://%s/helm/charts\n' "$C" >parent/Chart.yaml
  helm dependency update parent "${plain[@]}"
  test -s parent/charts/demo-1.10.0.tgz
}
by_digest() {
  local digest; digest=$(digest_at "$A" helm/charts/demo 1.0.0)
  helm pull "oci://$B/helm/charts/demo@$digest" "${plain[@]}" -d by-digest
  cmp "$(find by-digest -name '*.tgz')" packages/demo-1.0.0.tgz
}
check "a wrong password is refused" wrong_password
check "login with the password from standard input" login "$A" "$B" "$C"
check "push a chart to one node, pull it from another" push_and_pull
check "push five versions" versions
check "version ranges pick from the tag list" ranges
check "a version with + is a tag with _" plus
check "the provenance file travels with the chart" provenance
check "render straight from the registry" renders
check "a dependency is resolved by range" dependency
check "pull by digest" by_digest
finish
