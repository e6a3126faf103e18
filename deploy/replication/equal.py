#!/usr/bin/env python3
"""Are two regions equal? Says so from their own exports alone, with nothing but Python's standard library.

    portolan replication export us --direction to   > a.jsonl     # in eu, about what it sends to us
    portolan replication export eu --direction from > b.jsonl     # in us, about what it has of eu's making
    equal.py a.jsonl b.jsonl

Equal means: each tag, each manifest and, where a rule sends them, all settings that eu sends, us has with the same
digest and the same version; and us has nothing of eu's making, since the rule stands, that eu does not have. Where eu sends on what other regions made, us may
have more of theirs, which came another way. Where a rule sends some tags only, both exports hold these, and of manifests those
that are attached to others; and both must name the same filter. What us has set, or deleted, by itself
since wins by the rules of conflicts and is told by `portolan replication report`; here it shows as missing. Prints
what differs and a checksum of both sides. Ends with 0 when they are equal, 1 when not, 2 when a file is no export."""
import fnmatch
import hashlib
import json
import re
import sys


SETTINGS = "settings"


def read(path):
    """Header, records by repository: {name: ((since, others_since, settings_since), {register: (digest, version, base)})},
    the end, and by repository which tags are meant, and which were before."""
    header, repositories, ended, tags, before = None, {}, None, {}, {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            entry = json.loads(line)
            if "export" in entry:
                header = entry["export"]
            elif "end" in entry:
                ended = entry["end"]
            elif "digest" in entry:
                name = "tag " + entry["tag"] if "tag" in entry else "manifest " + entry["digest"]
                name = SETTINGS if entry.get("settings") else name
                record = (entry["digest"], entry["version"], entry["base"])
                records = repositories[entry["repository"]][1]
                if name in records:
                    raise ValueError(f"{path}:{number}: {name} stands twice")
                records[name] = record
            else:
                since = (entry["since"], entry.get("others_since"), entry.get("settings_since"))
                repositories.setdefault(entry["repository"], (since, {}))
                tags[entry["repository"]] = entry.get("tags")
                before[entry["repository"]] = entry.get("tags_before") or []
    if header is None or ended is None:
        raise ValueError(f"{path}: no whole export: it has no beginning or no end")
    return header, repositories, ended, (tags, before)


def hlc(version):
    """Hybrid logical time and region of a version, which is written `epoch.time.region`."""
    _, time, region = version.split(".")
    return int(time), int(region)


def is_sent(name, record, since, origin):
    """Whether a record is newer than the rule that sends it, of the source's making or of another region's."""
    time, region = hlc(record[1])
    own, others, settings = since
    if name == SETTINGS:
        is_meant = region == origin or (others is not None and time > others)
        return settings is not None and time > settings and is_meant
    return time > own if region == origin else others is not None and time > others


OF_DIGEST = re.compile(r"sha(256|512)-[0-9a-f]{64}(\..+)?")


def passed(name, record, before, is_there):
    """Whether a record was let through by what the rule sent when it was made. A manifest that is attached to another
    one was by anything: which are, only the source tells."""
    time, _ = hlc(record[1])
    counted = next((former["tags"] for former in before if time <= former["until"]), None)
    if name == SETTINGS or counted is None:
        return True
    kind, tag = name.split(" ", 1)
    if kind == "manifest":
        return is_there
    included, excluded = (
        any(fnmatch.fnmatchcase(tag, text) for text in counted.get(part) or []) for part in ("include", "exclude")
    )
    is_meant = (included or not counted.get("include")) and not excluded
    return is_meant or OF_DIGEST.fullmatch(tag) is not None


def checksum(repositories):
    lines = [
        f"{repository}\0{name}\0" + "\0".join(record)
        for repository, (_, records) in repositories.items()
        for name, record in records.items()
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        (sent, there, sent_end, (sent_tags, before)), (received, here, received_end, (tags, _)) = map(read, sys.argv[1:])
        if (sent["direction"], received["direction"]) != ("to", "from") or sent["origin"] != received["origin"]:
            raise ValueError("give what one region sends first, then what the other has of that region's making")
    except (ValueError, KeyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    differing, compared, same_there, same_here = [], 0, {}, {}
    for repository, (since, records) in sorted(there.items()):
        of_here = here.get(repository, (0, {}))[1]
        if repository in here and sent_tags[repository] != tags[repository]:
            differing.append(f"tags: {repository}: there {sent_tags[repository]}, here {tags[repository]}")
        in_scope = {
            name: record
            for name, record in of_here.items()
            if is_sent(name, record, since, sent["origin"]) and passed(name, record, before[repository], name in records)
        }
        for name in sorted(records.keys() | in_scope.keys()):
            left, right = records.get(name), in_scope.get(name)
            compared += 1
            if left == right or (left is None and hlc(right[1])[1] != sent["origin"]):
                continue
            kind = "missing" if right is None else "extra" if left is None else "different"
            differing.append(f"{kind}: {repository} {name}: there {left}, here {right}")
        same_there[repository], same_here[repository] = (since, records), (since, in_scope)
    for repository in sorted(here.keys() - there.keys()):
        differing += [f"extra: {repository} {name}" for name in here[repository][1]]
    for line in differing[:100]:
        print(line)
    print(f"{len(there)} repositories, {compared} records, {len(differing)} differ")
    print(f"there {checksum(same_there)} at index {sent_end['index']} of its log")
    print(f"here  {checksum(same_here)} at index {received_end['index']} of its log")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
