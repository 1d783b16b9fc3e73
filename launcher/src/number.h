/* Numbers as text. */
#ifndef NUMBER_H
#define NUMBER_H

enum { NUMBER_ROOM = 24 }; /* the digits of any unsigned long, and the closing zero byte */

/* The decimal digits of a number, somewhere in the buffer. */
const char *number_text(unsigned long number, char buffer[NUMBER_ROOM]);

#endif
