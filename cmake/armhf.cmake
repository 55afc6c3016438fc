# Cross-building for 32-bit ARM (Debian's armhf: ARMv7) with Debian's compiler; the tests run under qemu.
set(CMAKE_SYSTEM_PROCESSOR armv7l)
set(TARGET arm-linux-gnueabihf)
set(QEMU qemu-arm-static)
set(DEBIAN_ARCHITECTURE armhf)
include(${CMAKE_CURRENT_LIST_DIR}/cross.cmake)
