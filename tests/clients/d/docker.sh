# docker: push and pull through the daemon, mounts between repositories, manifest lists, pull -a, anonymous pull.
export DOCKER_BUILDKIT=0 DOCKER_CONFIG=$WORK/docker
login() { for node in "$@"; do secret | docker login -u "$KEY_ID" --password-stdin "$node"; done; }
wrong_password() { echo wrong | fails 'unauthorized|401|does not hold' -- docker login -u "$KEY_ID" --password-stdin "$A"; }
# nothing of ours is left in the daemon, so that a pull is one; a parent goes once its child is gone
mine() { docker images -aq --filter label=portolan-test=1 | sort -u; }
forget() { local round ids; for round in 1 2 3; do ids=$(mine); [ -z "$ids" ] || docker rmi -f $ids || true; done; [ -z "$(mine)" ]; }
trap 'forget >/dev/null 2>&1' EXIT
id() { docker image inspect --format '{{.Id}}' "$1"; }

build() {
  mkdir -p base context; head -c 300000 /dev/urandom >base/base.bin; head -c 700000 /dev/urandom >context/data.bin; echo hello >context/hello.txt
  tar -C base -c base.bin | docker import -c 'LABEL portolan-test=1' - "$A/docker/base:1"
  printf 'FROM %s\nCOPY hello.txt /hello.txt\nCOPY data.bin /data/data.bin\nLABEL portolan-test=1\nCMD ["/bin/true"]\n' "$A/docker/base:1" >context/Dockerfile
  docker build -q -t "$A/docker/app:1" context
}
push_and_pull() {
  docker push "$A/docker/app:1" | tee log
  sed -n 's/^1: digest: \(sha256:[0-9a-f]*\) .*/\1/p' log >digest
  same "$(cat digest)" "$(digest_at "$C" docker/app 1)"
  id "$A/docker/app:1" >id; forget
  docker pull "$B/docker/app:1"
  same "$(id "$B/docker/app:1")" "$(cat id)"
  local container; container=$(docker create "$B/docker/app:1")
  docker cp "$container:/data/data.bin" got.bin; docker cp "$container:/base.bin" got-base.bin; docker rm "$container"
  cmp got.bin context/data.bin; cmp got-base.bin base/base.bin
}
by_digest() { forget; docker pull "$C/docker/app@$(cat digest)"; same "$(id "$C/docker/app@$(cat digest)")" "$(cat id)"; }
layers_exist() {
  docker tag "$C/docker/app@$(cat digest)" "$C/docker/app:2"
  test "$(docker push "$C/docker/app:2" | grep -c 'Layer already exists')" = 3
}
mounts() {
  docker pull "$A/docker/app:1"; docker tag "$A/docker/app:1" "$A/docker/mounted:1"
  test "$(docker push "$A/docker/mounted:1" | grep -c 'Mounted from docker/app')" = 3
  same "$(digest_at "$B" docker/mounted 1)" "$(cat digest)"
}
pulls_all_tags() { forget; docker pull -a "$B/docker/app"; same "$(docker images --format '{{.Tag}}' "$B/docker/app" | sort | tr '\n' ' ')" '1 2 '; }
hundred_layers() {
  skopeo copy -q "oci:$IMAGES/layers100:1" "docker-daemon:$A/docker/layers100:1"
  docker push -q "$A/docker/layers100:1"; id "$A/docker/layers100:1" >id100; docker rmi -f "$(cat id100)"
  docker pull -q "$C/docker/layers100:1"; same "$(id "$C/docker/layers100:1")" "$(cat id100)"; docker rmi -f "$(cat id100)"
}
manifest_list() {
  docker manifest create --insecure "$B/docker/list:1" "$B/docker/app:1"
  docker manifest annotate "$B/docker/list:1" "$B/docker/app:1" --arch arm64 --variant v8
  docker manifest push --insecure "$B/docker/list:1"
  docker manifest inspect --insecure "$C/docker/list:1" | jq -e '.manifests | any(.platform.architecture == "arm64")'
  same "$(api GET "$A/v2/docker/list/manifests/1" | jq -r .mediaType)" application/vnd.docker.distribution.manifest.list.v2+json
}
index() {
  skopeo copy -q --all --dest-tls-verify=$verify --dest-authfile "$DOCKER_CONFIG/config.json" "oci:$IMAGES/multi:1" "docker://$A/docker/multi:1"
  docker pull "$B/docker/multi:1"
  same "$(docker image inspect --format '{{.Architecture}}' "$B/docker/multi:1")" amd64
  docker rmi -f "$B/docker/multi:1"
}
unknown() { fails 'not found|manifest unknown' -- docker pull "$B/docker/app:nothing"; }
anonymous() {
  docker pull "$A/docker/app:1"; docker tag "$A/docker/app:1" "$A/docker-open/app:1"; docker push "$A/docker-open/app:1"; forget
  docker logout "$B"
  fails 'unauthorized|no basic auth|authentication required|denied' -- docker pull "$B/docker-open/app:1"
  open_to_anyone 'docker-open/*'
  docker pull "$B/docker-open/app:1"
  fails 'unauthorized|no basic auth|authentication required|denied' -- docker pull "$B/docker/app:1"
  docker tag "$B/docker-open/app:1" "$B/docker-open/app:2"
  fails 'unauthorized|no basic auth|authentication required|denied' -- docker push "$B/docker-open/app:2"
}
check "a wrong password is refused" wrong_password
check "login with the password from standard input" login "$A" "$B" "$C"
check "import and build without a network" build
check "push to one node, pull from another, the same files" push_and_pull
check "pull by digest" by_digest
check "layers that are there are not sent again" layers_exist
check "layers of another repository are mounted" mounts
check "pull -a" pulls_all_tags
check "an image of 100 layers" hundred_layers
# at 127.x `docker manifest` mounts blobs by HTTP whatever the scheme
[ "$SCHEME" = https ] || check "manifest create, annotate, push, inspect" manifest_list
check "an OCI index: the image of this platform" index
check "what is not there is not found" unknown
# asked for Basic, docker without a login does not even try
[ "$CHALLENGE" = basic ] || check "anonymous pull where a policy says so, and nowhere else" anonymous
finish
