# Cross-building for 64-bit ARM with Debian's compiler; the tests run under qemu.
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(TARGET aarch64-linux-gnu)
set(QEMU qemu-aarch64-static)
set(DEBIAN_ARCHITECTURE arm64)
include(${CMAKE_CURRENT_LIST_DIR}/cross.cmake)
