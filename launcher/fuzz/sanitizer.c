/* The launcher frees nothing, on purpose; the address sanitizer should not complain of it. */
const char *__asan_default_options(void);

const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}
