#include "number.h"

const char *number_text(unsigned long number, char buffer[NUMBER_ROOM])
{
    char *at = buffer + NUMBER_ROOM - 1;

    *at = '\0';
    do {
        *--at = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    return at;
}
