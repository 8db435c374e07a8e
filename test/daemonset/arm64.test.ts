// SPDX-License-Identifier: Apache-2.0
// Is what an arm64 node would be given built for it? The addon by its headers and libraries; the BPF object, which both machines share,
// by being the same where it is compiled with arm64's headers. (There is no such machine here to run it on.)
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';

const BUILD = path.join(import.meta.dirname, '../../build');

/** elf.h: ELFDATA2LSB, and e_machine. */
const LITTLE_ENDIAN = 1;
const MACHINE = { amd64: 62, arm64: 183, bpf: 247 } as const;
/** sh_flags: occupies memory when it runs; elf.h SHF_ALLOC, SHT_REL. */
const ALLOC = 2n;
const REL = 9;

interface Section {
  readonly name: string;
  readonly type: number;
  readonly flags: bigint;
  /** Which section a relocation section is about. */
  readonly info: number;
  readonly content: Buffer;
}

/** ELF-64's header and section table (elf(5)). */
function sectionsOf(file: string): { machine: number; data: number; sections: Section[] } {
  const bytes = readFileSync(file);
  assert.equal(bytes.toString('latin1', 0, 4), '\x7fELF', file);
  const at = (index: number) => Number(bytes.readBigUInt64LE(40)) + index * bytes.readUInt16LE(58);
  const content = (header: number) => {
    const start = Number(bytes.readBigUInt64LE(header + 24));
    // SHT_NOBITS takes no room in the file.
    return bytes.readUInt32LE(header + 4) === 8
      ? Buffer.alloc(0)
      : bytes.subarray(start, start + Number(bytes.readBigUInt64LE(header + 32)));
  };
  const names = content(at(bytes.readUInt16LE(62)));
  const sections = Array.from({ length: bytes.readUInt16LE(60) }, (_, index) => {
    const header = at(index);
    const start = bytes.readUInt32LE(header);
    return {
      name: names.toString('utf8', start, names.indexOf(0, start)),
      type: bytes.readUInt32LE(header + 4),
      flags: bytes.readBigUInt64LE(header + 8),
      info: bytes.readUInt32LE(header + 44),
      content: content(header),
    };
  });
  return { machine: bytes.readUInt16LE(18), data: bytes.readUInt8(5), sections };
}

/** What the kernel is given of an object: programs, maps, constants, and the relocations of these. */
function loadedOf(file: string): Map<string, string> {
  const { sections } = sectionsOf(file);
  const isLoaded = (one: Section | undefined) => one !== undefined && (one.flags & ALLOC) !== 0n;
  const loaded = sections.filter((one) => isLoaded(one) || (one.type === REL && isLoaded(sections[one.info])));
  return new Map(
    // Relocations name symbols by number, and numbers change with symbols of debugging; where and how they apply does not.
    loaded.map(({ name, type, content }) => [name, type === REL ? places(content) : content.toString('hex')]),
  );
}

function places(relocations: Buffer): string {
  return Array.from({ length: relocations.length / 16 }, (_, index) =>
    [relocations.readBigUInt64LE(index * 16), relocations.readUInt32LE(index * 16 + 8)].join(':'),
  ).join(' ');
}

test('the BPF object is the same with the headers of arm64, and asks for nothing of the machine', () => {
  const shipped = path.join(BUILD, 'postern.bpf.o');
  const { machine, data, sections } = sectionsOf(shipped);
  assert.deepEqual([machine, data], [MACHINE.bpf, LITTLE_ENDIAN]);
  const loaded = loadedOf(shipped);
  assert.ok(loaded.has('cgroup_skb/egress') && loaded.has('.maps'));
  assert.deepEqual(loadedOf(path.join(BUILD, 'arm64/postern.bpf.o')), loaded);
  // Without CO-RE relocations no type of a running kernel, and so none of a machine, is read: linux/btf.h, core_relo_len.
  const btf = sections.find((one) => one.name === '.BTF.ext')?.content;
  assert.equal(btf?.readUInt16LE(0), 0xeb9f);
  assert.equal(btf?.readUInt32LE(28), 0);
});

// This machine's own, by the same rule of the Makefile, and the one that is cross-compiled.
for (const arch of new Set([process.arch === 'x64' ? 'amd64' : 'arm64', 'arm64'] as const)) {
  test(`the addon for ${arch} is of that machine, and the libraries that it needs are in the image`, () => {
    const addon = path.join(BUILD, `image/postern-${arch}.node`);
    const { machine, data } = sectionsOf(addon);
    assert.deepEqual([machine, data], [MACHINE[arch], LITTLE_ENDIAN]);
    const needed = [
      ...execFileSync('readelf', ['-d', addon], { encoding: 'utf8' }).matchAll(/\(NEEDED\).*\[(.*)\]/g),
    ].map((match) => match[1] ?? '');
    assert.ok(needed.includes('libbpf.so.1'));
    const triplet = arch === 'amd64' ? 'x86_64-linux-gnu' : 'aarch64-linux-gnu';
    for (const library of needed) {
      const found = ['lib', 'usr/lib', 'lib64', ''].some((folder) =>
        ['', triplet].some((below) => existsSync(path.join(BUILD, `image/libraries-${arch}`, folder, below, library))),
      );
      assert.ok(found || library.startsWith('ld-linux'), library);
    }
  });
}
