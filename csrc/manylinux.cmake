# Links a module as on glibc 2.28 and with libstdc++ inside, so that a wheel built on a newer system is a manylinux_2_28 one.
# Since glibc 2.34 threads, libdl and librt are part of libc under new versions, and libm has new versions of some functions. The linker
# finds stand-ins first, which have the old libraries' names and versions; when the module is loaded, the real ones serve.
set(moved_libpthread.so.0 pthread_create pthread_detach pthread_join pthread_kill pthread_once pthread_key_create pthread_key_delete
  pthread_getspecific pthread_setspecific pthread_mutex_trylock pthread_mutexattr_init pthread_mutexattr_destroy pthread_mutexattr_settype
  pthread_mutexattr_setpshared pthread_condattr_setpshared pthread_rwlock_init pthread_rwlock_destroy pthread_rwlock_rdlock
  pthread_rwlock_tryrdlock pthread_rwlock_timedrdlock pthread_rwlock_wrlock pthread_rwlock_trywrlock pthread_rwlock_timedwrlock
  pthread_rwlock_unlock pthread_rwlockattr_init pthread_rwlockattr_destroy pthread_rwlockattr_setpshared pthread_spin_init
  pthread_spin_destroy pthread_spin_lock pthread_spin_trylock pthread_spin_unlock sem_init sem_destroy sem_wait sem_trywait sem_timedwait
  sem_post)
set(moved_libdl.so.2 dlopen dlmopen dlclose dlsym dlvsym dlerror)
set(moved_librt.so.1 shm_open shm_unlink)
set(moved_libm.so.6 exp expf exp2 exp2f log logf log2 log2f pow powf)

function(link_for_manylinux target)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/stand_ins)
  target_link_options(${target} PRIVATE -static-libstdc++ -Wl,--no-as-needed)
  file(WRITE ${folder}/versions.map "GLIBC_2.2.5 { global: *; };\nGLIBC_2.3.4 { global: dlmopen; } GLIBC_2.2.5;\n")
  foreach(library libpthread.so.0 libdl.so.2 librt.so.1 libm.so.6)
    string(MAKE_C_IDENTIFIER ${library} stand_in)
    list(TRANSFORM moved_${library} REPLACE "(.+)" "extern \"C\" void \\1() {}" OUTPUT_VARIABLE functions)
    string(REPLACE ";" "\n" functions "${functions}")
    file(WRITE ${folder}/${stand_in}.cpp "${functions}\n")
    add_library(${stand_in} SHARED ${folder}/${stand_in}.cpp)
    set_target_properties(${stand_in} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${folder} NO_SONAME ON CXX_VISIBILITY_PRESET default
      INTERPROCEDURAL_OPTIMIZATION OFF)
    target_compile_options(${stand_in} PRIVATE -fno-builtin -w)
    target_link_options(${stand_in} PRIVATE -nostdlib -Wl,-soname,${library} -Wl,--version-script=${folder}/versions.map)
    target_link_libraries(${target} PRIVATE ${stand_in})
  endforeach()
  # what libstdc++ asks of later releases: with 0 it always takes its atomic operations; nothing here draws random numbers
  file(WRITE ${folder}/later.cpp "extern \"C\" {\n#define HIDDEN __attribute__((visibility(\"hidden\")))\n"
    "HIDDEN char __libc_single_threaded = 0;\nHIDDEN unsigned arc4random() { __builtin_trap(); }\n}\n")
  target_sources(${target} PRIVATE ${folder}/later.cpp)
endfunction()
