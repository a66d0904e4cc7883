"""Compiles one function of a generated Triton file to machine code; no GPU is needed.

    python3 triton_compile.py <file.py> <function> <capability, as 90> <warps> <stages> <out.cubin>

The file says the types of its functions' arguments in ARGUMENTS, and takes from here whether launches may start early (DEPENDENTS); pointers are aligned to 16 bytes, which the plan of a package keeps true. Prints what a launch must know as
a line of JSON: {"threads", "shared", "scratch", "frame"}: bytes of shared memory, of memory that the launcher would have to bring (none of ours may want any), and of a
thread's stack, where spilled registers go.
"""

import importlib.util
import json
import struct
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


def load(path):
    spec = importlib.util.spec_from_file_location("kernels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sections(elf):
    """Name and bytes of each section of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * size) for i in range(count)]
    strings = headers[names][4]
    for name, _, _, _, offset, length in headers:
        end = elf.index(b"\0", strings + name)
        yield elf[strings + name : end].decode(), elf[offset : offset + length]


def frame_bytes(elf):
    """The largest stack frame of the file's functions: attribute EIATTR_FRAME_SIZE of .nv.info."""
    sized, frame_size = 0x04, 0x11
    largest = 0
    for name, info in sections(elf):
        if name != ".nv.info":
            continue
        at = 0
        while at + 4 <= len(info):
            form, attribute, value = struct.unpack_from("<BBH", info, at)
            at += 4
            if form != sized:
                continue
            if attribute == frame_size:
                largest = max(largest, struct.unpack_from("<II", info, at)[1])
            at += value
    return largest


def main():
    path, function, capability, warps, stages, out = sys.argv[1:]
    module = load(path)
    module.DEPENDENTS = tl.constexpr(int(capability) >= 90)
    arguments = module.ARGUMENTS
    source = ASTSource(
        fn=getattr(module, function),
        signature=arguments,
        constexprs={},
        attrs={(i,): [["tt.divisibility", 16]] for i, type in enumerate(arguments.values()) if type.startswith("*")},
    )
    options = {"num_warps": int(warps), "num_stages": int(stages), "launch_pdl": int(capability) >= 90}
    made = triton.compile(source, target=GPUTarget("cuda", int(capability), 32), options=options)
    cubin = made.asm["cubin"]
    with open(out, "wb") as file:
        file.write(cubin)
    meta = made.metadata
    print(json.dumps({"threads": 32 * meta.num_warps, "shared": meta.shared, "scratch": meta.global_scratch_size, "frame": frame_bytes(cubin)}))


main()
