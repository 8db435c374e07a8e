// SPDX-License-Identifier: Apache-2.0
// Asks libc for the IPv4 address of a name, and says what it says. For a libc that no runtime here is linked against.
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int count, char **words)
{
	const struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
	struct addrinfo *found = NULL;
	char text[INET_ADDRSTRLEN] = "";
	const int error = count == 2 ? getaddrinfo(words[1], NULL, &hints, &found) : EAI_FAIL;

	if (error) {
		puts(error == EAI_NONAME ? "NONAME" : error == EAI_AGAIN ? "AGAIN" : "FAIL");
		return 0;
	}
	inet_ntop(AF_INET, &((const struct sockaddr_in *)found->ai_addr)->sin_addr, text, sizeof(text));
	puts(text);
	freeaddrinfo(found);
	return 0;
}
